//! One file of Rust as the house sees it: its length, its functions, and what it imports, by the syntax tree.

use std::collections::BTreeMap;
use std::path::PathBuf;

use syn::spanned::Spanned as _;
use syn::visit::Visit;
use syn::{Attribute, Signature};

/// What was read of a file.
pub struct Source {
    /// Its path in the repository.
    pub path: PathBuf,
    /// All its lines.
    pub n_lines: usize,
    /// Its functions, tests apart.
    pub functions: Vec<Function>,
    /// Every path that it names, tests apart.
    pub names: Vec<Vec<String>>,
    /// What its `use` lines call things, and the whole path of each.
    pub uses: BTreeMap<String, Vec<String>>,
}

/// A function.
pub struct Function {
    /// Its name.
    pub name: String,
    /// Where its signature begins.
    pub line: usize,
    /// From signature to brace.
    pub n_lines: usize,
    /// Without `self`.
    pub n_parameters: usize,
    /// Whether a comment above it says why it is over a bound.
    pub is_excused: bool,
}

impl Source {
    /// Reads `text`, the contents of `path`.
    ///
    /// # Errors
    /// `text` is not Rust.
    pub fn parse(path: PathBuf, text: &str) -> syn::Result<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let is_test = path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            ["tests", "tests.rs", "testing.rs", "benches", "examples"].contains(&&*part)
        });
        // The crate `benches` is no test, its folder of that name is one.
        let is_test =
            is_test && !path.starts_with("benches/src") || path.starts_with("benches/benches");
        let mut reader = Reader {
            lines: &lines,
            source: Self {
                path,
                n_lines: lines.len(),
                functions: vec![],
                names: vec![],
                uses: BTreeMap::new(),
            },
        };
        let file = syn::parse_file(text)?;
        if !is_test {
            reader.visit_file(&file);
        }
        Ok(reader.source)
    }
}

struct Reader<'t> {
    lines: &'t [&'t str],
    source: Source,
}

/// Whether this is there for tests alone.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|word| word == "test")
    })
}

impl Reader<'_> {
    fn function(&mut self, attributes: &[Attribute], signature: &Signature, end: usize) {
        let line = signature.span().start().line;
        let has_self = usize::from(signature.receiver().is_some());
        self.source.functions.push(Function {
            name: signature.ident.to_string(),
            line,
            n_lines: end + 1 - line,
            n_parameters: signature.inputs.len() - has_self,
            is_excused: self.is_excused(attributes, line),
        });
    }

    /// Whether the lines above a signature hold a reason: our comment, or clippy's attribute with one.
    fn is_excused(&self, attributes: &[Attribute], line: usize) -> bool {
        let first = attributes.first().map_or(line, |a| a.span().start().line);
        let (above, between) = self.lines[..line - 1].split_at(first - 1);
        let above = above
            .iter()
            .rev()
            .take_while(|line| line.trim().starts_with("//"));
        let mut comments = above.chain(between);
        let between = between.concat();
        comments.any(|line| {
            line.split_once("// house:")
                .is_some_and(|(_, why)| why.len() > 10)
        }) || between.contains("clippy::too_many") && between.contains("reason =")
    }

    fn uses(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (name, path) = match tree {
            syn::UseTree::Path(path) => return self.uses(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.uses(tree, before));
            }
            syn::UseTree::Glob(_) => return self.source.names.push(before.to_vec()),
            syn::UseTree::Name(name) if name.ident == "self" => {
                (before.last().cloned().unwrap_or_default(), before.to_vec())
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), with(&name.ident)),
            syn::UseTree::Rename(rename) => (rename.rename.to_string(), with(&rename.ident)),
        };
        self.source.names.push(path.clone());
        self.source.uses.insert(name, path);
    }
}

impl<'t> Visit<'t> for Reader<'t> {
    fn visit_item_use(&mut self, item: &'t syn::ItemUse) {
        if !for_tests(&item.attrs) {
            self.uses(&item.tree, &[]);
        }
    }

    fn visit_item_mod(&mut self, item: &'t syn::ItemMod) {
        if !for_tests(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'t syn::ItemImpl) {
        if !for_tests(&item.attrs) {
            syn::visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'t syn::ItemFn) {
        if !for_tests(&item.attrs) {
            self.function(&item.attrs, &item.sig, item.span().end().line);
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'t syn::ImplItemFn) {
        if !for_tests(&item.attrs) {
            self.function(&item.attrs, &item.sig, item.span().end().line);
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'t syn::TraitItemFn) {
        self.function(&item.attrs, &item.sig, item.span().end().line);
        syn::visit::visit_trait_item_fn(self, item);
    }

    /// `pub(crate)` imports nothing.
    fn visit_vis_restricted(&mut self, _: &'t syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'t syn::Path) {
        // One word alone is a variable, or was imported.
        if path.segments.len() > 1 {
            let segments = path.segments.iter();
            let name = segments.map(|s| s.ident.to_string()).collect();
            self.source.names.push(name);
        }
        syn::visit::visit_path(self, path);
    }
}
