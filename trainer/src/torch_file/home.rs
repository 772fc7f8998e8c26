//! Which dictionary of a file is the state dict.
//!
//! Training scripts keep it under a key of their own, beside counters, settings and the optimizer's state. The known keys
//! come first, then the file itself; else the one dictionary in it, however deep, that holds tensors by the names of
//! parameters. Copies of weights, such as averages, make that ambiguous, and then the file's keys are told instead.

use super::value::{Described, Ref, Value, Values, shown};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

/// Keys under which training scripts keep the state dict.
const HOMES: [&str; 5] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
];
/// Most keys that a message lists.
const LISTED: usize = 12;
/// Most state dicts that are looked for.
const FOUND: usize = 100;

/// The state dict of a file.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it is in the file, such as `["model"]`; empty for the file itself.
    pub home: String,
    /// Where other weights are.
    pub others: Vec<String>,
    /// What it holds, the last value of each name.
    pub entries: BTreeMap<Rc<str>, Ref>,
}

/// A place in the file: what holds it, and under which key.
struct Place {
    of: Ref,
    above: usize,
    key: Key,
}

enum Key {
    Root,
    Text(Rc<str>),
    Number(i64),
}

/// What a dictionary holds by name; later values of a name replace earlier ones, as in Python.
fn by_name(values: &Values, of: Ref) -> BTreeMap<Rc<str>, Ref> {
    let (Value::Dict(entries) | Value::Made(_, entries)) = values.at(of) else {
        return BTreeMap::new();
    };
    let named = entries.iter();
    named
        .filter_map(|&(key, value)| Some((values.text(key)?.clone(), value)))
        .collect()
}

fn described(values: &Values, of: Ref) -> Option<&Described> {
    match values.at(of) {
        Value::Tensor(described) => Some(described),
        _ => None,
    }
}

/// Names of parameters have dots; an optimizer's tensors do not.
fn is_state_dict(values: &Values, entries: &BTreeMap<Rc<str>, Ref>) -> bool {
    entries
        .iter()
        .any(|(name, &v)| name.contains('.') && described(values, v).is_some())
}

/// Finds it below `root`.
pub(super) fn find(values: &Values, root: Ref) -> Result<Found, String> {
    let places = reachable(values, root);
    let mut found: Vec<(usize, BTreeMap<Rc<str>, Ref>)> = Vec::new();
    for (i, place) in places.iter().enumerate() {
        let entries = by_name(values, place.of);
        // The same tensors again are no other weights.
        let same = |other: &BTreeMap<Rc<str>, Ref>| {
            let pairs = entries.iter().zip(other);
            entries.len() == other.len()
                && pairs.clone().all(|((a, x), (b, y))| {
                    a == b && (x == y || described(values, *x) == described(values, *y))
                })
        };
        if is_state_dict(values, &entries) && !found.iter().any(|(_, other)| same(other)) {
            found.push((i, entries));
        }
        if found.len() == FOUND {
            break;
        }
    }
    let rank = |(i, _): &(usize, _)| match &places[*i].key {
        Key::Root => HOMES.len(),
        Key::Text(key) if places[*i].above == 0 => {
            let known = HOMES.iter().position(|h| *h == &**key);
            known.unwrap_or(HOMES.len() + 1)
        }
        _ => HOMES.len() + 1,
    };
    found.sort_by_key(rank);
    let is_known = found.first().is_some_and(|f| rank(f) <= HOMES.len());
    if found.len() > 1 && !is_known {
        let listed = found.iter().take(LISTED).map(|(i, entries)| {
            let tensors = entries
                .values()
                .filter(|&&v| described(values, v).is_some());
            format!("{} ({} tensors)", path(&places, *i), tensors.count())
        });
        return Err(format!(
            "holds weights in {} places: {}; save one of them by itself, where the file was made and is trusted: torch.save(torch.load(IN, weights_only=False){}, OUT)",
            found.len(),
            listed.collect::<Vec<_>>().join(", "),
            path(&places, found[0].0)
        ));
    }
    let mut found = found.into_iter();
    let Some((i, entries)) = found.next() else {
        return Err(nothing(values, root));
    };
    Ok(Found {
        home: path(&places, i),
        others: found.take(LISTED).map(|(i, _)| path(&places, i)).collect(),
        entries,
    })
}

/// Everything in the dictionaries and lists of the file, each value once, those that are near first.
fn reachable(values: &Values, root: Ref) -> Vec<Place> {
    let mut seen = HashSet::from([root]);
    let mut places = vec![Place {
        of: root,
        above: 0,
        key: Key::Root,
    }];
    let mut next = 0;
    while let Some(place) = places.get(next) {
        let mut below: Vec<(Key, Ref)> = Vec::new();
        match values.at(place.of) {
            Value::Dict(entries) | Value::Made(_, entries) => {
                for &(key, value) in entries {
                    match values.at(key) {
                        Value::Text(text) => below.push((Key::Text(text.clone()), value)),
                        Value::Int(n) => below.push((Key::Number(*n), value)),
                        _ => {}
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                let numbered = items.iter().enumerate();
                below.extend(numbered.map(|(i, &value)| (Key::Number(i as i64), value)));
            }
            _ => {}
        }
        for (key, of) in below {
            let holds = matches!(
                values.at(of),
                Value::Dict(_) | Value::Made(..) | Value::List(_) | Value::Tuple(_)
            );
            if holds && seen.insert(of) {
                places.push(Place {
                    of,
                    above: next,
                    key,
                });
            }
        }
        next += 1;
    }
    places
}

/// How Python would get there.
fn path(places: &[Place], mut at: usize) -> String {
    let mut parts = Vec::new();
    while parts.len() < LISTED {
        match &places[at].key {
            Key::Root => break,
            Key::Text(key) => parts.push(format!("[\"{}\"]", shown(key))),
            Key::Number(n) => parts.push(format!("[{n}]")),
        }
        at = places[at].above;
    }
    parts.reverse();
    parts.concat()
}

/// That there are no weights, and what there is instead.
fn nothing(values: &Values, root: Ref) -> String {
    const WAY_OUT: &str = "save the weights of the model: torch.save(model.state_dict(), OUT)";
    let entries = by_name(values, root);
    if entries.is_empty() {
        return format!(
            "holds no tensors by the names of parameters but is {}; {WAY_OUT}",
            values.kind(root)
        );
    }
    let listed = entries.iter().take(LISTED);
    let mut listed: Vec<String> = listed
        .map(|(key, &value)| format!("{} ({})", shown(key), values.kind(value)))
        .collect();
    if entries.len() > LISTED {
        listed.push(format!("and {} more", entries.len() - LISTED));
    }
    format!(
        "holds no tensors by the names of parameters; its keys: {}; {WAY_OUT}",
        listed.join(", ")
    )
}
