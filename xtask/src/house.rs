//! `cargo xtask house`, also a step of `cargo xtask test`: the house's own numbers, held to the figures that were reached.
//!
//! A file has at most [`FILE_LINES`] lines, tests included. A function has at most [`FUNCTION_LINES`] lines from its signature to
//! its brace and [`PARAMETERS`] parameters, `self` not counted; tests are not counted. An exception is a comment
//! `// house: REASON` right above the function. At most [`CIRCLE`] files of a crate may import each other in a loop.

mod imports;
mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use source::Source;

use crate::workspace::root;

/// Most lines of a file.
const FILE_LINES: usize = 500;
/// Most lines of a function.
const FUNCTION_LINES: usize = 80;
/// Most parameters of a function.
const PARAMETERS: usize = 6;
/// Most files that may import each other in a loop.
const CIRCLE: usize = 2;

/// The crates, by folder.
const CRATES: [&str; 12] = [
    "images",
    "model",
    "protocol",
    "proto",
    "convert",
    "pi-server",
    "pi-client",
    "pi-python",
    "benches",
    "trainer",
    "xtask",
    "fuzz",
];

/// What was measured of one crate.
struct Figures {
    /// Lines of each file, sorted.
    files: Vec<usize>,
    /// Lines of each function, sorted.
    functions: Vec<usize>,
    /// Most parameters of a function.
    parameters: usize,
    /// Circles of more files than two.
    circles: usize,
    /// What is over its bound, a sentence each.
    faults: Vec<String>,
}

/// Measures, prints a table, and fails if a bound is passed.
pub fn run() -> Result<()> {
    let heads = [
        "crate",
        "files",
        "median lines",
        "p90",
        "most",
        "function p90",
        "most",
        "parameters",
        "circles",
        "over",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let mut faults = vec![];
    for name in CRATES {
        let figures = measure(&sources(&root(), name)?)?;
        let mut row = vec![name.to_owned(), figures.files.len().to_string()];
        row.extend([50, 90, 100].map(|p| percentile(&figures.files, p).to_string()));
        row.extend([90, 100].map(|p| percentile(&figures.functions, p).to_string()));
        row.extend([figures.parameters, figures.circles].map(|n| n.to_string()));
        row.push(figures.faults.len().to_string());
        rows.push(row);
        faults.extend(figures.faults);
    }
    print!("{}", pi_model::text::columns(&rows));
    if !faults.is_empty() {
        bail!(
            "{} over the house's bounds; split what is too large, or write `// house: REASON` above a function that should be:\n{}",
            faults.len(),
            faults.join("\n")
        );
    }
    Ok(())
}

fn measure(sources: &[Source]) -> Result<Figures> {
    let mut figures = Figures {
        files: vec![],
        functions: vec![],
        parameters: 0,
        circles: 0,
        faults: vec![],
    };
    for source in sources {
        let path = source.path.display();
        figures.files.push(source.n_lines);
        if source.n_lines > FILE_LINES {
            let n = source.n_lines;
            figures
                .faults
                .push(format!("{path} has {n} lines, more than {FILE_LINES}"));
        }
        for function in &source.functions {
            figures.functions.push(function.n_lines);
            figures.parameters = figures.parameters.max(function.n_parameters);
            let bounds = [
                ("lines", function.n_lines, FUNCTION_LINES),
                ("parameters", function.n_parameters, PARAMETERS),
            ];
            for (what, n, most) in bounds {
                if n > most && !function.is_excused {
                    let (line, name) = (function.line, &function.name);
                    figures.faults.push(format!(
                        "{path}:{line}: {name} has {n} {what}, more than {most}"
                    ));
                }
            }
        }
    }
    for circle in imports::circles(sources) {
        if circle.len() > CIRCLE {
            figures.circles += 1;
            let files: Vec<_> = circle.iter().map(|p| p.display().to_string()).collect();
            figures.faults.push(format!(
                "these files import each other: {}",
                files.join(", ")
            ));
        }
    }
    figures.files.sort_unstable();
    figures.functions.sort_unstable();
    Ok(figures)
}

fn percentile(sorted: &[usize], percent: usize) -> usize {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0)
}

/// The Rust files of one crate.
fn sources(root: &Path, name: &str) -> Result<Vec<Source>> {
    let mut found = vec![];
    let mut folders = vec![root.join(name)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder);
        for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                let skipped = ["target", "python", "suites"].map(|name| path.ends_with(name));
                if !skipped.contains(&true) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.iter().map(|path| read(root, path)).collect()
}

fn read(root: &Path, path: &Path) -> Result<Source> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let short: PathBuf = path.strip_prefix(root).unwrap_or(path).to_owned();
    Source::parse(short, &text).with_context(|| format!("{} is not Rust", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Figures {
        let sources = files
            .iter()
            .map(|(path, text)| Source::parse(path.into(), text).unwrap());
        measure(&sources.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn long_files_and_functions_and_many_parameters_are_faults_unless_there_is_a_reason() {
        let body = "    let _ = 1;\n".repeat(79);
        let long = format!("fn long() {{\n{body}}}\n");
        let found = of(&[("x/src/lib.rs", &long)]).faults;
        assert_eq!(found, ["x/src/lib.rs:1: long has 81 lines, more than 80"]);
        let excused =
            format!("/// Doc.\n// house: one table, read from top to bottom\n#[inline]\n{long}");
        assert!(of(&[("x/src/lib.rs", &excused)]).faults.is_empty());
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(of(&[("x/src/lib.rs", &tests)]).faults.is_empty());
        assert!(of(&[("x/tests/a.rs", &long)]).faults.is_empty());
        let many = "struct S; impl S { fn f(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8) {} }\n\
                    fn g(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, h: u8) {}";
        let found = of(&[("x/src/lib.rs", many)]).faults;
        assert_eq!(found, ["x/src/lib.rs:2: g has 7 parameters, more than 6"]);
        let file = "//\n".repeat(501);
        assert_eq!(of(&[("x/tests/a.rs", &file)]).faults.len(), 1);
    }

    #[test]
    fn circles_of_more_than_two_files_are_found_through_faces_and_not_in_tests() {
        let (a, b) = (
            "use crate::b::B; pub struct A;",
            "use crate::c::C; pub struct B;",
        );
        let lib = ("x/src/lib.rs", "mod a; mod b; mod c; pub use a::A;");
        let ring = "pub struct C; fn f() { let _ = crate::A; }";
        let of_c = |c| of(&[lib, ("x/src/a.rs", a), ("x/src/b.rs", b), ("x/src/c.rs", c)]);
        assert_eq!(
            of_c(ring).faults,
            ["these files import each other: x/src/a.rs, x/src/b.rs, x/src/c.rs"]
        );
        assert!(
            of_c("#[cfg(test)] mod tests { use crate::a::A; } pub struct C;")
                .faults
                .is_empty()
        );
        assert!(of_c("use super::b::B; pub struct C;").faults.is_empty());
        let nested = [
            ("x/src/lib.rs", "mod a;"),
            (
                "x/src/a.rs",
                "mod b; mod c; pub struct A; fn f() { b::f(); }",
            ),
            ("x/src/a/b.rs", "use super::c; pub fn f() { c::f(); }"),
            ("x/src/a/c.rs", "use super::A; pub fn f() -> A { A }"),
        ];
        assert_eq!(of(&nested).circles, 0);
    }
}
