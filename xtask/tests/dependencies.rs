//! Holds the shape of the workspace: which crate may know which, and what may come from outside.
//!
//! ```text
//! quorate ──> server ──> node ──> consensus ──┐
//!    │           │         ├────> journal ────┤
//!    │           │         ├────> state ──────┼──> base
//!    │           │         └────> etcd ───────┤
//!    │           └──> cluster ────────────────┘
//!    ├──> client ────────────────> etcd (its message types)
//!    └──> checker (how a history is written)
//! ```
//!
//! The order of dependencies is the order of reading, and what keeps the machines below `server`
//! free of I/O: a crate that cannot reach a runtime cannot use one. An edge or a crate that is
//! missing here is refused; to allow it, write a decision record first (docs/decisions/).

#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // asks cargo, a process

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Crates of ours that each crate may use. Names are those of the packages.
const EDGES: &[(&str, &[&str])] = &[
    ("quorate-base", &[]),
    (
        "quorate-cluster",
        &["quorate-base", "quorate-consensus", "quorate-state"],
    ),
    ("quorate-consensus", &["quorate-base"]),
    ("quorate-journal", &["quorate-base"]),
    ("quorate-state", &["quorate-base"]),
    ("quorate-etcd", &["quorate-base", "quorate-state"]),
    (
        "quorate-node",
        &[
            "quorate-base",
            "quorate-cluster",
            "quorate-consensus",
            "quorate-journal",
            "quorate-state",
            "quorate-etcd",
        ],
    ),
    ("quorate-checker", &["quorate-base"]),
    (
        "quorate-simulator",
        &[
            "quorate-base",
            // The machine of gossip, which no node drives: the server does.
            "quorate-cluster",
            "quorate-consensus",
            "quorate-journal",
            "quorate-state",
            "quorate-etcd",
            "quorate-node",
            "quorate-checker",
        ],
    ),
    ("quorate-client", &["quorate-etcd"]),
    (
        "quorate-server",
        &[
            "quorate-base",
            "quorate-cluster",
            "quorate-consensus",
            "quorate-journal",
            "quorate-state",
            "quorate-etcd",
            "quorate-node",
        ],
    ),
    (
        "quorate",
        &[
            "quorate-server",
            "quorate-client",
            "quorate-etcd",
            "quorate-checker",
            // Its tests forge a checkpoint.
            "quorate-state",
        ],
    ),
    ("xtask", &[]),
];

/// The crates that are pure: no clock, thread, lock, channel, socket, file, async or logging.
const PURE: &[&str] = &[
    "quorate-base",
    "quorate-cluster",
    "quorate-consensus",
    "quorate-journal",
    "quorate-state",
    "quorate-etcd",
    "quorate-node",
    "quorate-checker",
];

/// Crates of others that a pure crate may use: plain data and checksums, nothing that can wait.
const OUTSIDE: &[&str] = &["bytes", "crc32c", "xxhash-rust", "prost"];

/// Crates of others that one pure crate alone may use: histories are lines of JSON, packets of
/// gossip are sealed, an engine writes a record or two at a time and says one thing at a time.
const OUTSIDE_OF_ONE: &[(&str, &[&str])] = &[
    ("quorate-checker", &["serde", "serde_json"]),
    ("quorate-cluster", &["chacha20poly1305"]),
    ("quorate-consensus", &["smallvec"]),
    ("quorate-node", &["smallvec"]),
];

/// Crates of others that a pure crate's tests may use.
const OUTSIDE_IN_TESTS: &[&str] = &["proptest", "mimalloc"];

/// Crates of others that may run while a pure crate is built: they make types from `.proto` files.
const OUTSIDE_IN_BUILDS: &[(&str, &[&str])] = &[("quorate-etcd", &["protox", "prost-build"])];

struct Dependency {
    name: String,
    /// `normal`, `dev` or `build`.
    kind: String,
}

/// What every package of the workspace says it depends on, as cargo reads it.
fn workspace() -> BTreeMap<String, Vec<Dependency>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    metadata["packages"]
        .as_array()
        .expect("packages is a list")
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .expect("dependencies is a list");
            let dependencies = dependencies
                .iter()
                .map(|dependency| Dependency {
                    name: text(&dependency["name"]).expect("a dependency has a name"),
                    kind: text(&dependency["kind"]).unwrap_or_else(|| "normal".to_owned()),
                })
                .collect();
            (
                text(&package["name"]).expect("a package has a name"),
                dependencies,
            )
        })
        .collect()
}

fn allowed<'a>(table: &'a [(&str, &[&'a str])], package: &str) -> &'a [&'a str] {
    table
        .iter()
        .find(|(name, _)| *name == package)
        .map_or(&[], |(_, allowed)| allowed)
}

/// Every dependency that no list above allows, as a sentence.
fn violations(workspace: &BTreeMap<String, Vec<Dependency>>) -> Vec<String> {
    let mut violations = Vec::new();
    for (package, dependencies) in workspace {
        if !EDGES.iter().any(|(name, _)| name == package) {
            violations.push(format!("{package} is not in the list of crates"));
        }
        for dependency in dependencies {
            let name = dependency.name.as_str();
            let ours = workspace.contains_key(name);
            let pure = PURE.contains(&package.as_str());
            let fine = if ours {
                allowed(EDGES, package).contains(&name)
            } else if pure {
                OUTSIDE.contains(&name)
                    || allowed(OUTSIDE_OF_ONE, package).contains(&name)
                    || (dependency.kind == "dev" && OUTSIDE_IN_TESTS.contains(&name))
                    || (dependency.kind == "build"
                        && allowed(OUTSIDE_IN_BUILDS, package).contains(&name))
            } else {
                true
            };
            if !fine {
                violations.push(format!(
                    "{package} may not depend on {name} ({})",
                    dependency.kind
                ));
            }
        }
    }
    violations
}

#[test]
fn crates_depend_only_downward() {
    let violations = violations(&workspace());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// The rule itself is tested on invented edges: a rule that allows everything would pass above.
#[test]
fn forbidden_edges_are_found() {
    let edge = |name: &str, kind: &str| Dependency {
        name: name.into(),
        kind: kind.into(),
    };
    let mut invented: BTreeMap<String, Vec<Dependency>> = EDGES
        .iter()
        .map(|(package, _)| ((*package).to_owned(), Vec::new()))
        .collect();
    for (package, dependency) in [
        ("quorate-base", edge("quorate-state", "normal")),
        ("quorate-consensus", edge("tokio", "normal")),
        ("quorate-journal", edge("quorate-consensus", "dev")),
        ("quorate-state", edge("proptest", "normal")),
        ("quorate-node", edge("prost-build", "build")),
        ("quorate-client", edge("quorate-node", "normal")),
    ] {
        invented
            .get_mut(package)
            .expect("the package exists")
            .push(dependency);
    }
    invented.insert("quorate-helpers".to_owned(), Vec::new());
    assert_eq!(
        violations(&invented),
        [
            "quorate-base may not depend on quorate-state (normal)",
            "quorate-client may not depend on quorate-node (normal)",
            "quorate-consensus may not depend on tokio (normal)",
            "quorate-helpers is not in the list of crates",
            "quorate-journal may not depend on quorate-consensus (dev)",
            "quorate-node may not depend on prost-build (build)",
            "quorate-state may not depend on proptest (normal)",
        ]
    );
}
