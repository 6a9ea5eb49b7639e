//! `quorate keyspace`: keyspaces made, listed, described and dropped through a node's admin
//! listener.

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::admin::{self, AdminError};
use crate::command_line::KeyspaceTask;
use crate::table::table;

/// One keyspace, as the node lists it.
#[derive(Debug, Deserialize, Serialize)]
struct Keyspace {
    name: String,
    group: u64,
    engine: String,
    #[serde(default)]
    quorums: String,
    replicas: Vec<String>,
}

/// What `quorate keyspace ...` prints.
pub(crate) async fn keyspace(task: &KeyspaceTask) -> Result<String, AdminError> {
    match task {
        KeyspaceTask::Create {
            name,
            replicas,
            engine,
            quorums,
            admin,
        } => {
            let body = json!({
                "name": name, "replicas": replicas, "engine": engine, "quorums": quorums,
            });
            let path = "/keyspaces/create";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
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
        KeyspaceTask::Drop { name, admin } => {
            let body = json!({ "name": name });
            let path = "/keyspaces/drop";
            admin::request(&admin.address, Method::POST, path, Some(&body)).await
        }
    }
}

async fn keyspaces(address: &str) -> Result<Vec<Keyspace>, AdminError> {
    let text = admin::request(address, Method::GET, "/keyspaces", None).await?;
    serde_json::from_str(&text).map_err(|cause| AdminError::Foreign {
        address: address.to_owned(),
        cause,
    })
}

fn description(keyspace: &Keyspace) -> String {
    format!(
        "name      {}\ngroup     {}\nengine    {}\nquorums   {}\nreplicas  {}",
        keyspace.name,
        keyspace.group,
        keyspace.engine,
        keyspace.quorums,
        keyspace.replicas.join(", ")
    )
}

fn keyspace_table(keyspaces: &[Keyspace]) -> String {
    let rows: Vec<Vec<String>> = keyspaces
        .iter()
        .map(|each| {
            vec![
                each.name.clone(),
                each.group.to_string(),
                each.engine.clone(),
                each.replicas.join(","),
            ]
        })
        .collect();
    table(&["NAME", "GROUP", "ENGINE", "REPLICAS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyspaces_are_shown_with_who_holds_them() {
        let found: Vec<Keyspace> = serde_json::from_str(
            r#"[{"name": "default", "group": 0, "engine": "raft", "replicas": ["n1", "n2"]},
                {"name": "pods", "group": 1, "engine": "paxos", "quorums": "elect=1,commit=1",
                 "replicas": ["n2"]}]"#,
        )
        .unwrap();
        assert_eq!(
            keyspace_table(&found),
            "NAME     GROUP  ENGINE  REPLICAS\n\
             default  0      raft    n1,n2\n\
             pods     1      paxos   n2"
        );
        assert_eq!(
            description(&found[1]),
            "name      pods\ngroup     1\nengine    paxos\nquorums   elect=1,commit=1\nreplicas  n2"
        );
    }
}
