//! `quorate placement` and `quorate node`: where replicas are and why, and nodes that are emptied.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::admin::{self, AdminError};
use crate::command_line::{NodeTask, PlacementTask};
use crate::keyspace::{self, Keyspace};

/// How often it is looked how far a node is.
const LOOK: Duration = Duration::from_millis(500);

/// What `quorate placement ...` prints.
pub(crate) async fn placement(task: &PlacementTask) -> Result<String, AdminError> {
    match task {
        PlacementTask::Plan { admin } => {
            admin::request(&admin.address, Method::GET, "/placement/plan", None).await
        }
        PlacementTask::Apply { epoch, admin } => {
            let body = json!({ "epoch": epoch });
            let path = "/placement/apply";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
        PlacementTask::Explain { keyspace, admin } => {
            let path = format!("/placement/explain/{keyspace}");
            admin::request(&admin.address, Method::GET, &path, None).await
        }
        PlacementTask::Set {
            replace_after,
            rebalance,
            admin,
        } => {
            let body = json!({
                "replace_after_seconds": replace_after,
                "rebalance": rebalance,
            });
            let path = "/placement/set";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
    }
}

/// What `quorate node ...` prints in the end; on the way, how far it is.
pub(crate) async fn node(task: &NodeTask) -> Result<String, AdminError> {
    match task {
        NodeTask::Drain {
            node,
            no_wait,
            admin,
        } => {
            let status = admin::status(&admin.address).await?;
            let member = status.members.iter();
            let member = member
                .clone()
                .find(|each| each.name == *node || each.id == *node);
            let name = member.map_or_else(|| node.clone(), |each| each.name.clone());
            let body = json!({ "node": node });
            let path = "/nodes/drain";
            let said = admin::request(&admin.address, Method::POST, path, Some(&body)).await?;
            match no_wait {
                true => Ok(said),
                false => wait_until_empty(&admin.address, &name).await,
            }
        }
        NodeTask::Undrain { node, admin } => {
            let body = json!({ "node": node });
            let path = "/nodes/undrain";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
    }
}

/// Shows how many keyspaces are still to leave, until none is, and the node leads nothing.
async fn wait_until_empty(address: &str, node: &str) -> Result<String, AdminError> {
    let bar = bar();
    let mut all: BTreeSet<String> = BTreeSet::new();
    loop {
        let found = keyspace::keyspaces(address).await?;
        let left: BTreeSet<String> = left_on(&found, node);
        all.extend(left.iter().cloned());
        let leads = admin::status(address).await?.leader.as_deref() == Some(node);
        bar.set_length(all.len() as u64);
        bar.set_position((all.len() - left.len()) as u64);
        bar.set_message(match leads {
            true => "leads the first group",
            false => "",
        });
        if left.is_empty() && !leads {
            bar.finish();
            return Ok(format!(
                "{node} is empty: {} keyspaces were moved off it. It may be stopped, or removed; \
                 `quorate node undrain {node}` lets it take its share again",
                all.len()
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The keyspaces that a node still has.
fn left_on(keyspaces: &[Keyspace], node: &str) -> BTreeSet<String> {
    let left = keyspaces.iter();
    left.filter(|each| !each.is_default() && each.is_held_by(node))
        .map(|each| each.name.clone())
        .collect()
}

/// A bar on a terminal, nothing elsewhere.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:32}] {pos} of {len} keyspaces moved {msg}")
        .expect("the template is valid")
        .progress_chars("=> ");
    ProgressBar::new(0).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_counts_who_comes_and_who_goes() {
        let found: Vec<Keyspace> = serde_json::from_str(
            r#"[{"name": "default", "group": 0, "engine": "raft", "replicas": ["n1", "n2"]},
                {"name": "pods", "group": 1, "engine": "raft", "replicas": ["n1"],
                 "moving": {"to": ["n2"], "from": ["n1"], "state": "leaving"}},
                {"name": "jobs", "group": 2, "engine": "raft", "replicas": ["n3"]}]"#,
        )
        .unwrap();
        let names = |node| left_on(&found, node).into_iter().collect::<Vec<_>>();
        assert_eq!(names("n1"), ["pods"]);
        assert_eq!(names("n2"), ["pods"]);
        assert_eq!(names("n3"), ["jobs"]);
        assert_eq!(names("n4"), [""; 0]);
    }
}
