//! Dependencies: order, cycles, who waits for whom. Knows nothing of time.
//!
//! A graph is a list of nodes, each a name and the names it depends on. Names that no node has are passed over.
//! Nothing here recurses: a chain may be as long as the file is.

use std::collections::{BTreeMap, BTreeSet};

/// A name and what it depends on.
pub type Node<'a> = (&'a str, Vec<&'a str>);

/// Who can start beside whom: each level depends on the levels before it only. Within a level the order is that of `nodes`.
/// What is in a cycle, or depends on one, comes last, all together: the configuration refuses cycles, and nothing is lost here.
pub fn levels<'a>(nodes: &[Node<'a>]) -> Vec<Vec<&'a str>> {
    let index: BTreeMap<&str, usize> = nodes.iter().map(|(n, _)| *n).zip(0..).collect();
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut open: Vec<usize> = vec![0; nodes.len()];
    for (i, (_, needs)) in nodes.iter().enumerate() {
        for need in needs.iter().filter_map(|need| index.get(need)) {
            waiting[*need].push(i);
            open[i] += 1;
        }
    }
    let named = |level: &[usize]| level.iter().map(|i| nodes[*i].0).collect();
    let mut levels = Vec::new();
    let mut level: Vec<usize> = (0..nodes.len()).filter(|i| open[*i] == 0).collect();
    while !level.is_empty() {
        let mut next = Vec::new();
        for i in level.iter().flat_map(|i| &waiting[*i]) {
            open[*i] -= 1;
            if open[*i] == 0 {
                next.push(*i);
            }
        }
        next.sort_unstable();
        levels.push(named(&level));
        level = next;
    }
    let bound: Vec<usize> = (0..nodes.len()).filter(|i| open[*i] > 0).collect();
    if !bound.is_empty() {
        levels.push(named(&bound));
    }
    levels
}

/// The levels in which to stop: dependents first.
pub fn stop_levels<'a>(nodes: &[Node<'a>]) -> Vec<Vec<&'a str>> {
    let mut levels = levels(nodes);
    levels.reverse();
    levels
}

/// One cycle, if there is any, its first name repeated at the end: `web, api, web`.
pub fn cycle<'a>(nodes: &[Node<'a>]) -> Option<Vec<&'a str>> {
    let needs: BTreeMap<&str, &Vec<&'a str>> = nodes.iter().map(|(n, d)| (*n, d)).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for (start, start_needs) in nodes {
        // depth first, with the way from `start` kept as a stack of what is still to be looked at
        let mut way: Vec<(&'a str, std::slice::Iter<'_, &'a str>)> =
            vec![(start, start_needs.iter())];
        let mut on_way: BTreeSet<&str> = BTreeSet::from([*start]);
        while let Some((name, ahead)) = way.last_mut() {
            let Some(next) = ahead.next() else {
                done.insert(name);
                on_way.remove(name);
                way.pop();
                continue;
            };
            if on_way.contains(next) {
                let names = way.iter().map(|(name, _)| *name);
                let mut found: Vec<&str> = names.skip_while(|name| name != next).collect();
                found.push(next);
                return Some(found);
            }
            if let Some(beyond) = needs.get(next).filter(|_| !done.contains(next)) {
                on_way.insert(next);
                way.push((next, beyond.iter()));
            }
        }
    }
    None
}

/// `wanted` and everything it depends on, directly or not, in the order of `nodes`.
pub fn closure<'a>(nodes: &[Node<'a>], wanted: &[&str]) -> Vec<&'a str> {
    let needs: BTreeMap<&str, &Vec<&str>> = nodes.iter().map(|(n, d)| (*n, d)).collect();
    let next = |name: &str| needs.get(name).into_iter().flat_map(|d| d.iter().copied());
    let reached = reach(wanted.iter().copied(), next);
    in_order(nodes, &reached)
}

/// Everything that depends on one of `of`, directly or not, without `of` itself, in the order of `nodes`.
pub fn dependents<'a>(nodes: &[Node<'a>], of: &[&str]) -> Vec<&'a str> {
    let mut waiting: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, needs) in nodes {
        for need in needs {
            waiting.entry(need).or_default().push(name);
        }
    }
    let next = |name: &str| waiting.get(name).into_iter().flatten().copied();
    let mut reached = reach(of.iter().copied(), next);
    reached.retain(|name| !of.contains(name));
    in_order(nodes, &reached)
}

fn reach<'g, I: Iterator<Item = &'g str>>(
    from: impl Iterator<Item = &'g str>,
    next: impl Fn(&str) -> I,
) -> BTreeSet<&'g str> {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<&str> = from.collect();
    while let Some(name) = ahead.pop() {
        if reached.insert(name) {
            ahead.extend(next(name));
        }
    }
    reached
}

fn in_order<'a>(nodes: &[Node<'a>], chosen: &BTreeSet<&str>) -> Vec<&'a str> {
    let names = nodes.iter().map(|(name, _)| *name);
    names.filter(|name| chosen.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Vec<Node<'static>> {
        vec![
            ("web", vec!["api"]),
            ("api", vec!["db", "cache", "nobody"]),
            ("db", vec![]),
            ("mail", vec!["cache"]),
            ("cache", vec![]),
        ]
    }

    #[test]
    fn levels_are_started_in_order_and_stopped_in_reverse() {
        let expected = [vec!["db", "cache"], vec!["api", "mail"], vec!["web"]];
        assert_eq!(levels(&shop()), expected);
        let reversed: Vec<_> = expected.into_iter().rev().collect();
        assert_eq!(stop_levels(&shop()), reversed);
        assert!(levels(&[]).is_empty());
        assert_eq!(
            levels(&[("a", vec!["b", "b"]), ("b", vec![])]),
            [["b"], ["a"]]
        );
    }

    #[test]
    fn nothing_is_lost_in_a_cycle() {
        let nodes = [
            ("a", vec!["b"]),
            ("b", vec!["a"]),
            ("c", vec![]),
            ("d", vec!["a"]),
        ];
        assert_eq!(levels(&nodes), [vec!["c"], vec!["a", "b", "d"]]);
    }

    #[test]
    fn cycles_are_named() {
        assert_eq!(cycle(&shop()), None);
        assert_eq!(cycle(&[("a", vec!["a"])]), Some(vec!["a", "a"]));
        let nodes = [
            ("x", vec!["y", "a"]),
            ("y", vec![]),
            ("a", vec!["y", "b"]),
            ("b", vec!["c"]),
            ("c", vec!["y", "a"]),
        ];
        assert_eq!(cycle(&nodes), Some(vec!["a", "b", "c", "a"]));
        // two ways to the same node are none
        let diamond = [
            ("t", vec!["l", "r"]),
            ("l", vec!["b"]),
            ("r", vec!["b"]),
            ("b", vec![]),
        ];
        assert_eq!(cycle(&diamond), None);
    }

    #[test]
    fn who_is_needed_and_who_waits() {
        assert_eq!(closure(&shop(), &["mail"]), ["mail", "cache"]);
        assert_eq!(closure(&shop(), &["web"]), ["web", "api", "db", "cache"]);
        assert_eq!(closure(&shop(), &["nobody"]), [""; 0]);
        assert_eq!(dependents(&shop(), &["cache"]), ["web", "api", "mail"]);
        assert_eq!(dependents(&shop(), &["db", "api"]), ["web"]);
        assert_eq!(dependents(&shop(), &["web"]), [""; 0]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let names: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
        let nodes: Vec<Node> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                (
                    name.as_str(),
                    names.get(i + 1).map(String::as_str).into_iter().collect(),
                )
            })
            .collect();
        assert_eq!(cycle(&nodes), None);
        assert_eq!(levels(&nodes).len(), 20_000);
        assert_eq!(closure(&nodes, &["0"]).len(), 20_000);
        assert_eq!(dependents(&nodes, &["19999"]).len(), 19_999);
    }
}
