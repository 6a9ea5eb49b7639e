//! `quorate status` and `quorate member`: what an operator asks of a running node.

use hyper::Method;
use serde_json::json;

use crate::admin::{self, AdminError, Member, Status};
use crate::command_line::MemberTask;
use crate::table::{bytes, table};

/// What `quorate status` prints.
pub(crate) async fn status(address: &str, as_json: bool) -> Result<String, AdminError> {
    if as_json {
        return admin::request(address, Method::GET, "/status", None).await;
    }
    Ok(status_text(&admin::status(address).await?))
}

/// What `quorate member ...` prints.
pub(crate) async fn member(task: &MemberTask) -> Result<String, AdminError> {
    match task {
        MemberTask::List {
            admin,
            json: as_json,
        } => {
            let status = admin::status(&admin.address).await?;
            Ok(if *as_json {
                serde_json::to_string_pretty(&status.members).expect("members are plain data")
            } else {
                member_table(&status)
            })
        }
        MemberTask::Add {
            name,
            peer_address,
            witness,
            observer,
            admin,
        } => {
            let grows = !witness && !observer;
            let body = json!({
                "name": name, "peer_address": peer_address, "witness": witness, "grows": grows,
            });
            let path = "/members/add";
            let added = admin::request(&admin.address, Method::POST, path, Some(&body)).await?;
            Ok(match (witness, observer) {
                (true, _) => format!("{}; then promote it", added.trim_end()),
                (false, true) => added,
                (false, false) => format!(
                    "{}. It gets its vote once it has caught up; where that makes an even number \
                     of votes, together with the next one, or by `quorate member promote {name}`",
                    added.trim_end()
                ),
            })
        }
        MemberTask::Promote { member, admin } => {
            let body = json!({ "member": member });
            admin::request(
                &admin.address,
                Method::POST,
                "/members/promote",
                Some(&body),
            )
            .await
        }
        MemberTask::Remove { member, admin } => {
            let body = json!({ "member": member });
            admin::request(&admin.address, Method::POST, "/members/remove", Some(&body)).await
        }
    }
}

fn status_text(status: &Status) -> String {
    let leader = status.leader.as_deref().unwrap_or("none known");
    let mut facts = vec![
        ("name", status.name.clone()),
        ("role", format!("{} ({})", status.role, status.phase)),
        ("leader", leader.to_owned()),
        ("term", status.term.to_string()),
        ("chosen", status.chosen.to_string()),
        ("applied", status.applied.to_string()),
        ("revision", status.revision.to_string()),
        (
            "data",
            format!(
                "{} of {}, of which {} live keys and values",
                bytes(status.held_bytes),
                bytes(status.quota_bytes),
                bytes(status.live_bytes)
            ),
        ),
    ];
    if status.witness {
        let kind = "witness: it votes and holds no data".to_owned();
        facts.retain(|(name, _)| !matches!(*name, "revision" | "data"));
        facts.insert(1, ("kind", kind));
    }
    let facts: Vec<String> = facts
        .iter()
        .map(|(name, value)| format!("{name:<9} {value}"))
        .collect();
    format!("{}\n\n{}", facts.join("\n"), member_table(status))
}

fn member_table(status: &Status) -> String {
    let rows: Vec<Vec<String>> = status
        .members
        .iter()
        .map(|member| member_row(member, status))
        .collect();
    let heading = [
        "NAME",
        "ID",
        "VOTE",
        "ROLE",
        "BEHIND",
        "GOSSIP",
        "DATA",
        "PEER ADDRESS",
        "CLIENT URLS",
    ];
    table(&heading, &rows)
}

/// What is not known is shown as `-`: only the leader knows how far the others are.
fn member_row(member: &Member, status: &Status) -> Vec<String> {
    let unknown = || "-".to_owned();
    let role = if status.leader.as_deref() == Some(member.name.as_str()) {
        "leader"
    } else if member.witness {
        "witness"
    } else if member.voter {
        "follower"
    } else {
        "learner"
    };
    vec![
        member.name.clone(),
        member.id.clone(),
        if member.voter { "yes" } else { "no" }.to_owned(),
        role.to_owned(),
        member.lag.map_or_else(unknown, |lag| lag.to_string()),
        seen(member, status),
        member.data_bytes.map_or_else(unknown, bytes),
        member.peer_address.clone(),
        member.client_urls.join(","),
    ]
}

/// What gossip says of a member: how long it has been gone, if it is.
fn seen(member: &Member, status: &Status) -> String {
    let gossip = status.gossip.as_ref();
    let seen = gossip.and_then(|gossip| gossip.members.iter().find(|each| each.id == member.id));
    match seen {
        None => "-".to_owned(),
        Some(seen) if seen.state == "alive" => seen.state.clone(),
        Some(seen) => format!("{} {} s", seen.state, seen.for_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_shown_as_far_as_they_are_known() {
        let status: Status = serde_json::from_str(
            r#"{"name": "n2", "role": "follower", "phase": "serving", "leader": "n1", "term": 3,
                "chosen": 9, "applied": 9, "revision": 7, "held_bytes": 3072, "live_bytes": 1024,
                "quota_bytes": 2147483648, "a later field": {}, "gossip": {"unhealthiness": 0,
                "members": [{"id": "1f", "name": "n1", "state": "dead", "for_seconds": 12}]},
                "members": [
                  {"id": "1f", "name": "n1", "peer_address": "a:1", "client_urls": ["http://a:2"],
                   "voter": true, "lag": 0, "data_bytes": 2048},
                  {"id": "2f", "name": "n2", "peer_address": "b:1", "voter": false,
                   "lag": null, "data_bytes": null}]}"#,
        )
        .unwrap();
        assert_eq!(
            status_text(&status),
            "name      n2\nrole      follower (serving)\nleader    n1\nterm      3\nchosen    9\n\
             applied   9\nrevision  7\ndata      3.0 KiB of 2.0 GiB, of which 1.0 KiB live \
             keys and values\n\n\
             NAME  ID  VOTE  ROLE     BEHIND  GOSSIP     DATA     PEER ADDRESS  CLIENT URLS\n\
             n1    1f  yes   leader   0       dead 12 s  2.0 KiB  a:1           http://a:2\n\
             n2    2f  no    learner  -       -          -        b:1"
        );
    }
}
