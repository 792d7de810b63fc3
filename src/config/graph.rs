//! Pure: no system call, no thread, no clock.
//!
//! Dependencies: order and cycles. Knows nothing of time.
//!
//! A graph is a list of nodes, each a name and the names it depends on. Names that no node has
//! are passed over. Nothing here recurses: a chain may be as long as the file is. Within, a
//! node is its place in the list.

use crate::base::table::{Table, in_order};

/// A name and what it depends on.
pub type Node<'a> = (&'a str, Vec<&'a str>);

/// Of each node, those it depends on.
fn needs(nodes: &[Node]) -> Vec<Vec<usize>> {
    let index: Table<&str, usize> = nodes.iter().map(|(name, _)| *name).zip(0..).collect();
    nodes
        .iter()
        .map(|(_, needs)| needs.iter().filter_map(|n| index.get(n).copied()).collect())
        .collect()
}

/// The same the other way round: of each node, those that depend on it.
fn waiting(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut waiting = vec![Vec::new(); needs.len()];
    for (i, needs) in needs.iter().enumerate() {
        for need in needs {
            waiting[*need].push(i);
        }
    }
    waiting
}

/// The levels of a start: each level depends on the levels before it only. Within a level the order
/// is that of `nodes`. What is in a cycle, or depends on one, comes last, all together: the configuration
/// refuses cycles, and nothing is lost here.
pub fn levels<'a>(nodes: &[Node<'a>]) -> Vec<Vec<&'a str>> {
    let needs = needs(nodes);
    let waiting = waiting(&needs);
    let mut open: Vec<usize> = needs.iter().map(Vec::len).collect();
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
        levels.push(named(&level));
        level = in_order(next, |i| *i as u64);
    }
    let bound: Vec<usize> = (0..nodes.len()).filter(|i| open[*i] > 0).collect();
    if !bound.is_empty() {
        levels.push(named(&bound));
    }
    levels
}

/// One cycle, if there is any, its first name repeated at the end: `web, api, web`.
pub fn cycle<'a>(nodes: &[Node<'a>]) -> Option<Vec<&'a str>> {
    let needs = needs(nodes);
    let (mut done, mut on_way) = (vec![false; nodes.len()], vec![false; nodes.len()]);
    for start in 0..nodes.len() {
        // depth first, with the way from `start` kept as a stack of what is still to be looked at
        let mut way = vec![(start, needs[start].iter())];
        on_way[start] = true;
        while let Some((i, ahead)) = way.last_mut() {
            let Some(&next) = ahead.next() else {
                (done[*i], on_way[*i]) = (true, false);
                way.pop();
                continue;
            };
            if on_way[next] {
                let round = way.iter().map(|(i, _)| *i).skip_while(|i| *i != next);
                return Some(round.chain([next]).map(|i| nodes[i].0).collect());
            }
            if !done[next] {
                on_way[next] = true;
                way.push((next, needs[next].iter()));
            }
        }
    }
    None
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
    fn each_level_needs_only_those_before_it() {
        let expected = [vec!["db", "cache"], vec!["api", "mail"], vec!["web"]];
        assert_eq!(levels(&shop()), expected);
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
    }
}
