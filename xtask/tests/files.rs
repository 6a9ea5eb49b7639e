//! Holds the rules of STYLE.md that no other tool checks, over every Rust file of the workspace.
//!
//! - A file opens with `//!`: what it is, before what it does.
//! - At most 800 lines: a longer file holds two ideas.
//! - At most 100 columns, comments and strings included (rustfmt leaves those alone).
//! - Below `server`, nobody switches off the lists that keep clocks, threads, files and sockets
//!   out. Tests of these crates may: they read golden files.
//!
//! And over every Markdown file: a link to a file of ours leads somewhere.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // reads the source tree

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 800;
const COLUMNS_MAX: usize = 100;

/// Folders of the crates that must stay pure; `src` alone, tests may read files.
const PURE: &[&str] = &[
    "crates/base/src",
    "crates/consensus/src",
    "crates/journal/src",
    "crates/state/src",
    "crates/protocols/etcd/src",
    "crates/node/src",
    "crates/checker/src",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .into()
}

/// All files below a folder with this extension, build output left out.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        let name = path
            .file_name()
            .expect("an entry has a name")
            .to_string_lossy()
            .into_owned();
        let made = name.starts_with("target") || name == "node_modules";
        if path.is_dir() && !made && !name.starts_with('.') {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
}

/// What is wrong with one file, each as a sentence.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!(
            "{path}: does not open with `//!`, saying what it is"
        ));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!(
            "{path}: {lines} lines, more than {LINES_MAX}; split it by idea"
        ));
    }
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            faults.push(format!("{path}:{}: {columns} columns", index + 1));
        }
    }
    let pure = PURE.iter().any(|folder| path.starts_with(folder));
    let in_tests = path.contains("/tests/") || path.ends_with("/tests.rs");
    if pure && !in_tests {
        for (index, line) in text.lines().enumerate() {
            if line.contains("allow(clippy::disallowed") {
                faults.push(format!(
                    "{path}:{}: switches off the rule on pure code",
                    index + 1
                ));
            }
        }
    }
    faults
}

#[test]
fn every_source_file_keeps_the_rules() {
    let root = root();
    let mut paths = Vec::new();
    for folder in ["crates", "xtask", "tests"] {
        files(&root.join(folder), "rs", &mut paths);
    }
    assert!(paths.len() > 10, "the sources were found");
    paths.sort();
    let faults: Vec<String> = paths
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).expect("a source file is text");
            let name = path.strip_prefix(&root).expect("it lies below the root");
            faults(&name.to_string_lossy(), &text)
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rules are tested on invented files: a rule that finds nothing would pass above.
#[test]
fn broken_rules_are_found() {
    let long = format!("//! A file.\n{}\n", "/".repeat(COLUMNS_MAX + 1));
    assert_eq!(faults("a.rs", &long), ["a.rs:2: 101 columns"]);
    let tall = format!("//! A file.\n{}", "\n".repeat(LINES_MAX));
    assert_eq!(
        faults("a.rs", &tall),
        ["a.rs: 801 lines, more than 800; split it by idea"]
    );
    assert_eq!(
        faults("a.rs", "fn f() {}"),
        ["a.rs: does not open with `//!`, saying what it is"]
    );
    let clock = "//! A file.\n#[allow(clippy::disallowed_methods)]\n";
    assert_eq!(
        faults("crates/node/src/a.rs", clock),
        ["crates/node/src/a.rs:2: switches off the rule on pure code"]
    );
    assert!(faults("crates/server/src/a.rs", clock).is_empty());
}

/// The targets of links in a Markdown text that are paths: `[text](path)`, without any `#part`.
fn links(text: &str) -> Vec<&str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let paths = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    paths
        .map(|target| target.split('#').next().unwrap_or(target))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = root();
    let mut paths = Vec::new();
    files(&root, "md", &mut paths);
    let mut dead = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a document is text");
        let folder = path.parent().expect("a file lies in a folder");
        for link in links(&text) {
            if !folder.join(link).exists() {
                dead.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
    assert_eq!(links("[a](b.md#c), [d](https://e/f) and [g](#h)"), ["b.md"]);
}
