//! `quorate group recover`: what is left of a group that has lost its quorum, what going on without
//! the rest would lose, and, with `--force`, going on.
//!
//! ```text
//!   look      the replica of every node that was named, with who answers it     (GET /groups)
//!   report    what is left, what may be lost: pure
//!   force     POST /groups/recover to the first node named: from its own machine, and only as told
//! ```
//!
//! The loss is named before anything is done, and agreed to by naming who is given up: a flag that
//! only says "yes" gets typed without reading.

use std::process::ExitCode;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::admin::{self, AdminError, Status};
use crate::command_line::Recover;
use crate::keyspace;
use crate::table::table;

/// What one node sees of a group that it holds a replica of.
#[derive(Clone, Debug, Deserialize)]
struct Group {
    group: u64,
    engine: String,
    in_doubt: bool,
    leader: Option<String>,
    last: u64,
    last_term: u64,
    chosen: u64,
    revision: i64,
    elect: usize,
    commit: usize,
    voter: bool,
    witness: bool,
    others: Vec<Other>,
}

/// Another replica, as that node hears of it.
#[derive(Clone, Debug, Deserialize)]
struct Other {
    name: String,
    voter: bool,
    witness: bool,
    reachable: bool,
    silent_seconds: Option<u64>,
}

/// A replica that was looked at.
#[derive(Clone, Debug)]
struct Looked {
    node: String,
    group: Group,
}

/// Everything that was looked at of one group; the first would go on.
#[derive(Debug)]
struct Case {
    keyspace: String,
    looked: Vec<Looked>,
}

/// The status if a quorum is lost, as `quorate doctor` has it for what is critical.
const LOST: u8 = 4;

/// Looks, and goes on by force if asked to.
///
/// # Errors
/// No node can be asked, it holds no such replica, or it refuses.
pub(crate) async fn recover(options: &Recover) -> Result<(String, ExitCode), AdminError> {
    let case = look(options).await?;
    if !options.force {
        let status = match case.is_lost() {
            true => ExitCode::from(LOST),
            false => ExitCode::SUCCESS,
        };
        return Ok((case.report(), status));
    }
    if let Some(reason) = case.objection(&options.accept_loss) {
        return Err(refused(format!("{}\n\n{reason}", case.report())));
    }
    let survivor = &case.looked[0].group;
    let body = json!({
        "keyspace": case.keyspace,
        "last": survivor.last,
        "last_term": survivor.last_term,
        "accept_loss": options.accept_loss,
    });
    let path = "/groups/recover";
    let text = admin::request(&options.admins[0], Method::POST, path, Some(&body)).await?;
    Ok((text, ExitCode::SUCCESS))
}

fn refused(text: String) -> AdminError {
    AdminError::Refused {
        status: StatusCode::CONFLICT,
        text,
    }
}

/// Asks every node that was named for its replica. The first must have one, the others may be down.
async fn look(options: &Recover) -> Result<Case, AdminError> {
    let name = &options.keyspace;
    let mut looked = Vec::new();
    for (at, address) in options.admins.iter().enumerate() {
        match look_at(address, name).await {
            Ok(found) => looked.extend(found),
            Err(error) if at == 0 => return Err(error),
            Err(_) => {}
        }
        if looked.is_empty() {
            let text = format!("the node at {address} holds no replica of {name}");
            return Err(refused(text));
        }
    }
    Ok(Case {
        keyspace: name.clone(),
        looked,
    })
}

/// What the node at an address has of a keyspace.
async fn look_at(address: &str, name: &str) -> Result<Option<Looked>, AdminError> {
    let Status { name: node, .. } = admin::status(address).await?;
    let keyspaces = keyspace::keyspaces(address).await?;
    let named = keyspaces.iter().find(|each| each.name == name);
    let Some(number) = named.map(keyspace::Keyspace::group) else {
        return Err(refused(format!(
            "there is no keyspace called {name}; `quorate keyspace list` names them all"
        )));
    };
    let text = admin::request(address, Method::GET, "/groups", None).await?;
    let groups: Vec<Group> = serde_json::from_str(&text).map_err(|cause| AdminError::Foreign {
        address: address.to_owned(),
        cause,
    })?;
    let group = groups.into_iter().find(|each| each.group == number);
    Ok(group.map(|group| Looked { node, group }))
}

impl Case {
    /// The one that would go on.
    fn survivor(&self) -> &Looked {
        &self.looked[0]
    }

    /// Those that do not answer it.
    fn silent(&self) -> impl Iterator<Item = &Other> {
        let others = self.survivor().group.others.iter();
        others.filter(|other| !other.reachable)
    }

    /// How many voters there are, and how many of them answer.
    fn voters(&self) -> (usize, usize) {
        let group = &self.survivor().group;
        let own = usize::from(group.voter);
        let others = group.others.iter().filter(|other| other.voter);
        let alive = others.clone().filter(|other| other.reachable).count();
        (own + others.count(), own + alive)
    }

    /// Whether too few are left to lead and to commit, and nobody leads.
    fn is_lost(&self) -> bool {
        let group = &self.survivor().group;
        let (_, alive) = self.voters();
        group.leader.is_none() && alive < group.elect.max(group.commit)
    }

    /// Whether something that was acknowledged may be on the disks of those alone who are silent.
    fn may_lose(&self) -> bool {
        let voters = self.silent().filter(|other| other.voter);
        voters.count() >= self.survivor().group.commit
    }

    /// The names of those who would be given up.
    fn given_up(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.silent().map(|other| other.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// A replica whose log is newer than that of the one that would go on.
    fn newer(&self) -> Option<&Looked> {
        let rank = |looked: &Looked| match looked.group.engine.as_str() {
            "paxos" => (looked.group.chosen, looked.group.last),
            _ => (looked.group.last_term, looked.group.last),
        };
        let own = rank(self.survivor());
        let others = self.looked[1..].iter().filter(|each| !each.group.witness);
        others
            .max_by_key(|each| rank(each))
            .filter(|each| rank(each) > own)
    }

    /// Why it is not done, though the operator wants it by force.
    fn objection(&self, agreed: &[String]) -> Option<String> {
        if !self.is_lost() {
            return Some("nothing is to be recovered".to_owned());
        }
        if self.survivor().group.in_doubt {
            let node = &self.survivor().node;
            return Some(format!(
                "{node} is in doubt about its own log: name another node first"
            ));
        }
        if let Some(newer) = self.newer() {
            return Some(format!(
                "{} has a newer log: name its --admin first",
                newer.node
            ));
        }
        let unseen = self.survivor().group.others.iter();
        let mut unseen = unseen.filter(|other| other.reachable && !other.witness);
        let is_seen = |other: &&Other| self.looked.iter().any(|each| each.node == other.name);
        if let Some(other) = unseen.find(|other| !is_seen(other)) {
            return Some(format!(
                "{} answers too, and its log may be newer: name its --admin as well, behind the \
                 one that is to go on",
                other.name
            ));
        }
        let (mut named, mut silent) = (agreed.to_vec(), self.given_up());
        named.sort_unstable();
        silent.sort_unstable();
        (named != silent).then(|| format!("agree to it with --accept-loss {}", silent.join(",")))
    }

    fn report(&self) -> String {
        let group = &self.survivor().group;
        let (voters, alive) = self.voters();
        let quorums = match group.elect == group.commit {
            true => format!("{} elect a leader and commit a write", group.elect),
            false => format!(
                "{} elect a leader, {} commit a write",
                group.elect, group.commit
            ),
        };
        let head = format!(
            "{}, group {}, {}: {alive} of {voters} voters answer {}; {quorums}",
            self.keyspace,
            group.group,
            group.engine,
            self.survivor().node
        );
        let table = self.replicas();
        let rest = match (&group.leader, self.is_lost()) {
            (Some(leader), _) => format!("{leader} leads: nothing is to be recovered."),
            (None, false) => "A quorum answers: it elects a leader by itself, or look at `quorate \
                              doctor` for why not."
                .to_owned(),
            (None, true) => self.loss(),
        };
        format!("{head}\n\n{table}\n\n{rest}")
    }

    fn replicas(&self) -> String {
        let part = |voter, witness| match (voter, witness) {
            (_, true) => "witness",
            (true, _) => "voter",
            (false, _) => "learner",
        };
        let own = self.looked.iter().map(|each| {
            let group = &each.group;
            let state = match group.in_doubt {
                true => "in doubt",
                false => "answers",
            };
            vec![
                each.node.clone(),
                part(group.voter, group.witness).to_owned(),
                state.to_owned(),
                group.last.to_string(),
                group.last_term.to_string(),
                group.chosen.to_string(),
                group.revision.to_string(),
            ]
        });
        let is_seen = |other: &&Other| self.looked.iter().any(|each| each.node == other.name);
        let others = self.survivor().group.others.iter();
        let others = others.filter(|other| !is_seen(other)).map(|other| {
            let state = match (other.reachable, other.silent_seconds) {
                (true, _) => "answers; not asked".to_owned(),
                (false, Some(seconds)) => format!("silent for {seconds} s"),
                (false, None) => "silent since this node started".to_owned(),
            };
            let unknown = || "?".to_owned();
            vec![
                other.name.clone(),
                part(other.voter, other.witness).to_owned(),
                state,
                unknown(),
                unknown(),
                unknown(),
                unknown(),
            ]
        });
        let heading = [
            "REPLICA",
            "PART",
            "STATE",
            "LAST ENTRY",
            "TERM",
            "CHOSEN",
            "REVISION",
        ];
        table(&heading, &own.chain(others).collect::<Vec<_>>())
    }

    /// What going on would lose.
    fn loss(&self) -> String {
        let survivor = self.survivor();
        let (node, group) = (&survivor.node, &survivor.group);
        let given_up = self.given_up();
        let names = given_up.join(", ");
        let silence = self.silent().filter_map(|other| other.silent_seconds).min();
        let since = match silence {
            Some(seconds) => format!("the {seconds} s since one of them was last heard of"),
            None => "a time that this node does not know: it was started since".to_owned(),
        };
        let entries = match self.may_lose() {
            true => format!(
                "- writes that were acknowledged: from none to any number. {} commit a write, and \
                 {} are silent: they may have entries behind {} (revision {} here) that nobody \
                 else has, of what was written in or before {since}. Nobody can know.",
                group.commit,
                given_up.len(),
                group.last,
                group.revision
            ),
            false => format!(
                "- no write that was acknowledged: {} commit a write, and only {} are silent. \
                 Somebody who answers has each; so name all of those, the newest log first.",
                group.commit,
                given_up.len()
            ),
        };
        let kept = match group.last > group.chosen {
            true => format!(
                "\n- the doubt about entries {} to {}: they stand here, were perhaps never \
                 acknowledged, and would count.",
                group.chosen + 1,
                group.last
            ),
            false => String::new(),
        };
        format!(
            "The quorum is lost: nothing can be written. Bring back one of {names} if there is any \
             way.\n\nGoing on with {node} alone would lose\n{entries}{kept}\n- {names}: they could \
             never come back with their old data, and would have to join anew with empty folders. \
             Make sure that they are off: where they came back together, and met nobody who knows, \
             they would go on without {node}.\n\nOn the machine of {node}, if that is what you \
             want:\n  quorate group recover {} --force --accept-loss {}",
            self.keyspace,
            given_up.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(last_term: u64, last: u64, others: &str) -> Group {
        let text = format!(
            r#"{{"group": 0, "engine": "raft", "in_doubt": false, "leader": null, "last": {last},
                "last_term": {last_term}, "chosen": 40, "revision": 31, "elect": 2, "commit": 2,
                "voter": true, "witness": false, "others": [{others}], "a later field": 1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn other(name: &str, reachable: bool) -> String {
        format!(
            r#"{{"name": "{name}", "voter": true, "witness": false, "reachable": {reachable},
                "silent_seconds": 34}}"#
        )
    }

    fn case(others: &[(&str, bool)]) -> Case {
        let others = others
            .iter()
            .map(|(name, reachable)| other(name, *reachable));
        let others = others.collect::<Vec<_>>().join(",");
        let looked = vec![Looked {
            node: "n1".to_owned(),
            group: group(3, 42, &others),
        }];
        Case {
            keyspace: "default".to_owned(),
            looked,
        }
    }

    #[test]
    fn what_may_be_lost_is_said_before_anything_else() {
        let case = case(&[("n2", false), ("n3", false)]);
        let report = case.report();
        for part in [
            "1 of 3 voters answer n1; 2 elect a leader and commit a write",
            "n2       voter  silent for 34 s  ?           ?     ?       ?",
            "n1       voter  answers          42          3     40      31",
            "from none to any number",
            "entries 41 to 42",
            "--force --accept-loss n2,n3",
        ] {
            assert!(report.contains(part), "{part}\n{report}");
        }
        let agreed = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            case.objection(&names)
        };
        assert!(agreed(&[]).unwrap().contains("--accept-loss n2,n3"));
        assert!(agreed(&["n2"]).is_some(), "all of them, and nobody else");
        assert!(agreed(&["n2", "n3", "n4"]).is_some());
        assert_eq!(agreed(&["n3", "n2"]), None);
    }

    #[test]
    fn a_quorum_that_answers_is_not_given_up() {
        let case = case(&[("n2", true), ("n3", false)]);
        assert!(!case.is_lost());
        assert!(case.report().contains("A quorum answers"));
        assert!(case.objection(&["n3".to_owned()]).is_some());
    }

    #[test]
    fn the_newest_log_goes_on_and_nobody_is_overlooked() {
        let silent = [("n2", true), ("n3", false), ("n4", false), ("n5", false)];
        let mut case = case(&silent);
        case.looked[0].group.elect = 3;
        case.looked[0].group.commit = 3;
        let agreed = ["n3", "n4", "n5"].map(str::to_owned);
        let objection = case.objection(&agreed).unwrap();
        assert!(objection.contains("n2 answers too"), "{objection}");
        case.looked.push(Looked {
            node: "n2".to_owned(),
            group: group(4, 7, ""),
        });
        let objection = case.objection(&agreed).unwrap();
        assert!(objection.contains("n2 has a newer log"), "{objection}");
        case.looked[1].group.last_term = 3;
        assert_eq!(case.objection(&agreed), None);
    }

    #[test]
    fn fewer_than_commit_lose_nothing_that_was_acknowledged() {
        let mut case = case(&[("n2", false), ("n3", true)]);
        case.looked[0].group.elect = 3;
        case.looked[0].group.commit = 2;
        assert!(case.is_lost());
        assert!(case.report().contains("no write that was acknowledged"));
    }
}
