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
