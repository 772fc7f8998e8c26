//! Which files of a crate import which, and the loops among them.
//!
//! A name that a module only hands on (`pub use`) counts as an import of the file that it comes from, so that a crate's face ties
//! nothing together. What a file takes from a module that it is a part of (`super::`) is no import.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::source::Source;

/// How often a name may be handed on.
const MOST_HANDS: usize = 8;

/// Files that import each other in a loop, each set of them once, in the order of their names.
pub fn circles(sources: &[Source]) -> Vec<Vec<PathBuf>> {
    let crate_ = Crate::new(sources);
    let reach: BTreeMap<&Path, BTreeSet<&Path>> = crate_
        .sources
        .iter()
        .map(|source| (&*source.path, crate_.reached_from(source)))
        .collect();
    let loops = |a: &Path, b: &Path| reach[a].contains(b) && reach[b].contains(a);
    let mut found = BTreeSet::new();
    for a in reach.keys().filter(|a| loops(a, a)) {
        let circle = reach.keys().filter(|b| loops(a, b));
        found.insert(circle.map(|p| p.to_path_buf()).collect::<Vec<_>>());
    }
    found.into_iter().collect()
}

/// The modules of a crate, by their path in it.
struct Crate<'s> {
    sources: &'s [Source],
    modules: BTreeMap<Vec<String>, &'s Source>,
}

impl<'s> Crate<'s> {
    fn new(sources: &'s [Source]) -> Self {
        let modules = sources.iter().filter_map(|s| Some((module(&s.path)?, s)));
        // Where a program has a library beside it, `crate` means the library.
        let of_library = |s: &&Source| s.path.ends_with("src/lib.rs");
        let library = sources.iter().filter(of_library).map(|s| (vec![], s));
        Self {
            sources,
            modules: modules.chain(library).collect(),
        }
    }

    fn reached_from(&self, source: &'s Source) -> BTreeSet<&'s Path> {
        let mut reached = BTreeSet::new();
        let mut next = vec![source];
        while let Some(source) = next.pop() {
            for import in self.imports(source) {
                if reached.insert(&*import.path) {
                    next.push(import);
                }
            }
        }
        reached
    }

    fn imports(&self, source: &Source) -> Vec<&'s Source> {
        let Some(here) = module(&source.path) else {
            return vec![];
        };
        let found = source.names.iter();
        let found = found.filter_map(|name| self.resolve(&here, name, MOST_HANDS));
        // What a module holds for its own parts is no way out of it.
        let is_around = |other: &Source| module(&other.path).is_some_and(|m| here.starts_with(&m));
        found.filter(|found| !is_around(found)).collect()
    }

    /// The file that `name`, as it is written in the module `here`, comes from; none for what is not of this crate.
    fn resolve(&self, here: &[String], name: &[String], hands: usize) -> Option<&'s Source> {
        let (first, rest) = name.split_first()?;
        let mut at = match first.as_str() {
            "crate" => vec![],
            "self" => here.to_vec(),
            "super" => here.split_last()?.1.to_vec(),
            child => {
                let child = [here, &[child.to_owned()]].concat();
                self.modules.contains_key(&child).then_some(child)?
            }
        };
        let mut rest = rest.iter();
        for word in rest.by_ref() {
            let child = [&at[..], std::slice::from_ref(word)].concat();
            if word == "super" {
                at.pop();
            } else if self.modules.contains_key(&child) {
                at = child;
            } else {
                // Handed on from elsewhere, or at home here.
                let source = self.modules.get(&at)?;
                let from = source.uses.get(word).filter(|_| hands > 0 && at != here);
                let from = from.and_then(|from| self.resolve(&at, from, hands - 1));
                return Some(from.unwrap_or(source));
            }
        }
        self.modules.get(&at).copied()
    }
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are the module `a::b`.
fn module(path: &Path) -> Option<Vec<String>> {
    let parts: Vec<String> = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    let src = parts.iter().position(|part| part == "src")?;
    let mut module = parts[src + 1..].to_vec();
    let root = |last: &String| ["mod", "lib", "main"].contains(&last.as_str());
    if module.last().is_some_and(root) {
        module.pop();
    }
    Some(module)
}
