//! Finds the commit that the simulator is built from, so that a failing run can name it.
//!
//! `QUORATE_COMMIT` in the environment comes first; else the git folder is read, if there is one.
//! Without either, runs say "unknown".

#![allow(clippy::disallowed_methods, reason = "a build script reads files")]

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=QUORATE_COMMIT");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let given = std::env::var("QUORATE_COMMIT").ok();
    if let Some(commit) = given.or_else(|| commit(&root)) {
        println!("cargo:rustc-env=QUORATE_COMMIT={commit}");
    }
}

/// The commit that is checked out, as the files of git say.
fn commit(root: &Path) -> Option<String> {
    let folder = git_folder(&root.join(".git"))?;
    let head = read(&folder.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref: ") else {
        return Some(head);
    };
    // A work tree keeps its own HEAD; branches are in the folder that it shares.
    let shared = read(&folder.join("commondir")).map_or(folder.clone(), |path| folder.join(path));
    let packed = || {
        let all = read(&shared.join("packed-refs"))?;
        let mut lines = all.lines();
        let line = lines.find(|line| line.ends_with(&format!(" {reference}")))?;
        line.split(' ').next().map(str::to_owned)
    };
    read(&shared.join(reference)).or_else(packed)
}

/// A work tree has a file in the place of the folder, which says where that is.
fn git_folder(place: &Path) -> Option<PathBuf> {
    if place.is_dir() {
        return Some(place.to_owned());
    }
    let text = read(place)?;
    Some(PathBuf::from(text.strip_prefix("gitdir: ")?))
}

/// A file without the white space around it; cargo builds again when it changes.
fn read(path: &Path) -> Option<String> {
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
