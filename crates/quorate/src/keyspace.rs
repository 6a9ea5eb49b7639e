//! `quorate keyspace`: keyspaces made, listed, described and dropped through a node's admin
//! listener.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::admin::{self, AdminError};
use crate::command_line::KeyspaceTask;
use crate::table::table;

/// How many keyspaces are asked for at a time. A node would make four times as many with one
/// command; but each holds an election, and those of all the others go on meanwhile.
const AT_A_TIME: usize = 128;

/// One keyspace, as the node lists it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Keyspace {
    pub(crate) name: String,
    group: u64,
    engine: String,
    #[serde(default)]
    quorums: String,
    replicas: Vec<String>,
    #[serde(default)]
    observers: Vec<String>,
    #[serde(default)]
    leader: Option<String>,
    #[serde(default)]
    moving: Option<Moving>,
}

/// A keyspace's way to other nodes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Moving {
    to: Vec<String>,
    from: Vec<String>,
    state: String,
    /// How full the new replicas are, in percent; empty where nobody who was asked knows.
    #[serde(default)]
    filled: BTreeMap<String, u8>,
}

impl Keyspace {
    /// Whether a node has it, or is to get it.
    pub(crate) fn is_held_by(&self, node: &str) -> bool {
        let names = |all: &[String]| all.iter().any(|each| each == node);
        let moving = self.moving.iter();
        names(&self.replicas)
            || moving
                .clone()
                .any(|each| names(&each.to) || names(&each.from))
    }

    /// The number of its group.
    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    /// Whether it is the one that all nodes hold.
    pub(crate) fn is_default(&self) -> bool {
        self.group == 0
    }
}

/// What `quorate keyspace ...` prints.
pub(crate) async fn keyspace(task: &KeyspaceTask) -> Result<String, AdminError> {
    match task {
        KeyspaceTask::Create {
            names,
            count,
            replicas,
            engine,
            quorums,
            admin,
        } => {
            let names = numbered(names, *count);
            let mut said = Vec::new();
            // As many as one command makes, one command after the other.
            for names in names.chunks(AT_A_TIME) {
                let body = json!({
                    "names": names, "replicas": replicas, "engine": engine, "quorums": quorums,
                });
                said.push(create(&admin.address, &body).await?.trim_end().to_owned());
            }
            Ok(said.join("\n"))
        }
        KeyspaceTask::Route {
            prefix,
            name,
            admin,
        } => {
            let body = json!({ "prefix": prefix, "name": name });
            let path = "/routes/add";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
        KeyspaceTask::Unroute { prefix, admin } => {
            let body = json!({ "prefix": prefix });
            let path = "/routes/remove";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
        KeyspaceTask::Routes { admin } => {
            admin::request(&admin.address, Method::GET, "/routes", None).await
        }
        KeyspaceTask::List {
            admin,
            json: as_json,
        } => {
            let found = keyspaces(&admin.address).await?;
            Ok(match as_json {
                true => serde_json::to_string_pretty(&found).expect("keyspaces are plain data"),
                false => keyspace_table(&found),
            })
        }
        KeyspaceTask::Describe { name, admin } => {
            let found = keyspaces(&admin.address).await?;
            let one = found.iter().find(|each| each.name == *name);
            one.map(description).ok_or_else(|| AdminError::Refused {
                status: StatusCode::NOT_FOUND,
                text: format!(
                    "there is no keyspace called {name}; `quorate keyspace list` names them all"
                ),
            })
        }
        KeyspaceTask::Move {
            name,
            cancel: true,
            admin,
            ..
        } => {
            let body = json!({ "name": name });
            let path = "/keyspaces/stay";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
        KeyspaceTask::Move {
            name,
            from,
            to,
            admin,
            ..
        } => {
            let body = json!({ "name": name, "from": from, "to": to });
            let path = "/keyspaces/move";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
        KeyspaceTask::Observe { name, nodes, admin } => {
            observe(&admin.address, "/keyspaces/observe", name, nodes).await
        }
        KeyspaceTask::Unobserve { name, nodes, admin } => {
            observe(&admin.address, "/keyspaces/unobserve", name, nodes).await
        }
        KeyspaceTask::Drop { name, admin } => {
            let body = json!({ "name": name });
            let path = "/keyspaces/drop";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
    }
}

/// Says of one node after the other whether it shall observe a keyspace.
async fn observe(
    address: &str,
    path: &str,
    name: &str,
    nodes: &[String],
) -> Result<String, AdminError> {
    let mut said = Vec::new();
    for node in nodes {
        let body = json!({ "name": name, "node": node });
        let done = admin::request(address, Method::POST, path, Some(&body)).await?;
        said.push(done.trim_end().to_owned());
    }
    Ok(said.join("\n"))
}

/// The names that are meant: as they stand there, or so many of each with a number.
fn numbered(names: &[String], count: Option<u32>) -> Vec<String> {
    let Some(count) = count else {
        return names.to_vec();
    };
    let numbered = |name: &String| {
        let name = name.clone();
        (1..=count).map(move |number| format!("{name}-{number}"))
    };
    names.iter().flat_map(numbered).collect()
}

/// Makes keyspaces; again, if the table has changed between planning and executing, as it does
/// while others are created or moved.
async fn create(address: &str, body: &serde_json::Value) -> Result<String, AdminError> {
    const ATTEMPTS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(200);
    let path = "/keyspaces/create";
    for _ in 1..ATTEMPTS {
        let asked = admin::request(address, Method::POST, path, Some(body)).await;
        match asked {
            Err(AdminError::Refused { text, .. }) if text.contains("changed meanwhile") => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
    admin::request(address, Method::POST, path, Some(body)).await
}

/// All keyspaces, as a node knows them.
pub(crate) async fn keyspaces(address: &str) -> Result<Vec<Keyspace>, AdminError> {
    let text = admin::request(address, Method::GET, "/keyspaces", None).await?;
    serde_json::from_str(&text).map_err(|cause| AdminError::Foreign {
        address: address.to_owned(),
        cause,
    })
}

fn description(keyspace: &Keyspace) -> String {
    let mut text = format!(
        "name      {}\ngroup     {}\nengine    {}\nquorums   {}\nreplicas  {}",
        keyspace.name,
        keyspace.group,
        keyspace.engine,
        keyspace.quorums,
        keyspace.replicas.join(", ")
    );
    if !keyspace.observers.is_empty() {
        text.push_str(&format!("\nobservers {}", keyspace.observers.join(", ")));
    }
    if let Some(leader) = &keyspace.leader {
        text.push_str(&format!("\nleader    {leader}"));
    }
    if let Some(moving) = &keyspace.moving {
        text.push_str(&format!("\nmoving    {}", way(moving)));
    }
    text
}

/// How far a keyspace is on its way.
fn way(moving: &Moving) -> String {
    let filled: Vec<String> = moving
        .filled
        .iter()
        .map(|(node, percent)| format!("{node} {percent} %"))
        .collect();
    let filled = match filled.is_empty() {
        true => String::new(),
        false => format!(" ({})", filled.join(", ")),
    };
    let leaving = match moving.from.is_empty() {
        true => String::new(),
        false => format!("; {} let go of it", moving.from.join(", ")),
    };
    format!(
        "{} to {}{filled}{leaving}",
        moving.state,
        moving.to.join(", ")
    )
}

/// Who holds a keyspace, in a column: with a vote, and behind a plus those without.
fn shown_holders(keyspace: &Keyspace) -> String {
    let mut text = keyspace.replicas.join(",");
    for observer in &keyspace.observers {
        text.push_str(&format!("+{observer}"));
    }
    text
}

fn keyspace_table(keyspaces: &[Keyspace]) -> String {
    let rows: Vec<Vec<String>> = keyspaces
        .iter()
        .map(|each| {
            vec![
                each.name.clone(),
                each.group.to_string(),
                each.engine.clone(),
                shown_holders(each),
                each.moving.as_ref().map_or_else(String::new, way),
            ]
        })
        .collect();
    table(&["NAME", "GROUP", "ENGINE", "REPLICAS", "MOVING"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keyspaces_are_numbered() {
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(numbered(&names, None), names);
        assert_eq!(numbered(&names, Some(2)), ["a-1", "a-2", "b-1", "b-2"]);
    }

    #[test]
    fn keyspaces_are_shown_with_who_holds_them() {
        let found: Vec<Keyspace> = serde_json::from_str(
            r#"[{"name": "default", "group": 0, "engine": "raft", "replicas": ["n1", "n2"]},
                {"name": "pods", "group": 1, "engine": "paxos", "quorums": "elect=1,commit=1",
                 "replicas": ["n2"], "observers": ["o1", "n1"],
                 "leader": "n2", "moving": {"to": ["n3"], "from": ["n2"],
                 "state": "filling", "filled": {"n3": 40}}}]"#,
        )
        .unwrap();
        assert_eq!(
            keyspace_table(&found),
            "NAME     GROUP  ENGINE  REPLICAS  MOVING\n\
             default  0      raft    n1,n2\n\
             pods     1      paxos   n2+o1+n1  filling to n3 (n3 40 %); n2 let go of it"
        );
        assert_eq!(
            description(&found[1]),
            "name      pods\ngroup     1\nengine    paxos\nquorums   elect=1,commit=1\n\
             replicas  n2\nobservers o1, n1\nleader    n2\n\
             moving    filling to n3 (n3 40 %); n2 let go of it"
        );
    }
}
