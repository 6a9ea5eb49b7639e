//! Which engine should I choose? Both engines in the same simulated situations.
//!
//! ```text
//! cargo xtask engines-report        writes target/engines-report/index.html and report.md
//! cargo xtask engines-report --seeds 200 --output FOLDER
//! ```
//!
//! The world is the one of the engines' tests: several replicas of one group, disks that take 0.2
//! to 2.2 ms for a write, links that take 0.1 to 2.1 ms for a message, so that messages overtake
//! each other, and that lose as many as the case says; an election timeout of 500 ms, heartbeats
//! every 100 ms. Time is simulated and everything is drawn from seeds: the same sources give the
//! same page. What processors cost is not in it; that is in `benches/engines`.

// It is run by a person, from a terminal, and says so when it cannot go on.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

#[path = "../../tests/cluster/mod.rs"]
mod cluster;
mod measures;
mod page;

use std::path::PathBuf;

fn main() {
    let mut seeds = 100;
    let mut folder = PathBuf::from("target/engines-report");
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => seeds = value.parse().expect("--seeds is a number"),
            "--output" => folder = PathBuf::from(value),
            other => panic!("unknown option {other}; there are --seeds N and --output FOLDER"),
        }
    }
    assert!(seeds > 0, "at least one seed");
    let sections = measures::all(seeds);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("report.md"), page::markdown(&sections)).unwrap();
    std::fs::write(folder.join("index.html"), page::html(&sections)).unwrap();
    println!("{}", page::markdown(&sections));
    println!("written to {}", folder.display());
}
