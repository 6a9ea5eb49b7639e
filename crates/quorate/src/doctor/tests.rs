//! Each question is asked of a healthy cluster, where nothing is found, and of one that has exactly
//! what it asks for.

use std::time::Duration;

use serde_json::{Value, json};

use super::evidence::{Case, Evidence, Look, Looked, now_milliseconds};
use super::*;
use crate::admin::Member;

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

fn members() -> Value {
    NAMES
        .iter()
        .enumerate()
        .map(|(index, name)| {
            json!({"id": format!("{index}f"), "name": name, "voter": true, "lag": 0,
                   "peer_address": format!("10.0.0.{index}:2380"), "data_bytes": 9})
        })
        .collect()
}

/// What a healthy node tells.
fn evidence(index: usize) -> Value {
    let seen = NAMES.iter().enumerate().map(|(other, name)| {
        json!({"id": format!("{other}f"), "name": name, "state": "alive", "for_seconds": 9,
               "host": format!("h{other}"), "round_trip_microseconds": 300,
               "clock_ahead_milliseconds": 0})
    });
    json!({
        "release": "0.1.0",
        "wall_milliseconds": 0,
        "status": {
            "name": NAMES[index], "id": format!("{index}f"), "phase": "serving", "term": 2,
            "role": if index == 0 { "leader" } else { "follower" }, "leader": "n1",
            "chosen": 5, "applied": 5, "revision": 4, "held_bytes": 1024, "level": 1,
            "quota_bytes": 1 << 30, "digest": "aa", "alarms": [], "members": members(),
            "gossip": {"unhealthiness": 0, "members": seen.collect::<Vec<_>>()},
        },
        "settings": {"election-timeout-ms": "500", "heartbeat-interval-ms": "100",
                     "peer-tls": "verified", "client-tls": "verified", "gossip": "sealed",
                     "listen-peer": format!("10.0.0.{index}:2380")},
        "disk": {"folder": "/d", "filesystem": "ext4", "free_bytes": 900, "total_bytes": 1000},
        "files": {"segment": {"count": 1, "bytes": 64, "oldest_seconds": 9}},
        "certificates": [],
        "metrics": "",
    })
}

fn look(evidence: Value) -> Look {
    Look {
        evidence: serde_json::from_value::<Evidence>(evidence).unwrap(),
        ahead_milliseconds: 0,
        taken: Duration::from_millis(2),
    }
}

fn looked(index: usize, evidence: Value) -> Looked {
    let member: Vec<Member> = serde_json::from_value(members()).unwrap();
    Looked {
        member: member[index].clone(),
        looks: Ok((look(evidence.clone()), Some(look(evidence)))),
    }
}

fn healthy() -> Case {
    Case {
        members: (0..3).map(|index| looked(index, evidence(index))).collect(),
    }
}

/// The healthy cluster, with the third node's evidence changed.
fn changed(change: impl Fn(&mut Value)) -> Case {
    let mut case = healthy();
    let mut third = evidence(2);
    change(&mut third);
    case.members[2] = looked(2, third);
    case
}

fn findings(case: &Case) -> Vec<(Severity, &'static str, String)> {
    let found = examine(case, &Thresholds::default());
    found
        .into_iter()
        .map(|finding| (finding.severity, finding.kind, finding.subject))
        .collect()
}

#[track_caller]
fn finds(case: &Case, severity: Severity, kind: &'static str, subject: &str) {
    assert_eq!(findings(case), [(severity, kind, subject.to_owned())]);
}

use Severity::{Critical, Note, Warning};

#[test]
fn nothing_is_found_in_a_healthy_cluster() {
    assert_eq!(findings(&healthy()), []);
    let text = report::text(&healthy(), &[]);
    assert_eq!(
        text,
        "3 of 3 members answer; n1 leads in term 2; 1 of 3 votes may still fail\n\nnothing is wrong"
    );
}

#[test]
fn members_that_do_not_answer_count_against_the_quorum() {
    let mut case = healthy();
    case.members[2].looks = Err("refused".into());
    let expected = [
        (Critical, "quorum", "cluster".to_owned()),
        (Warning, "member", "n3".to_owned()),
    ];
    assert_eq!(findings(&case), expected);
    case.members[1].looks = Err("refused".into());
    let worst = examine(&case, &Thresholds::default()).remove(0);
    assert!(worst.what.contains("no majority"), "{worst:?}");
    assert!(worst.remedy.contains("n2, n3"), "{worst:?}");
}

#[test]
fn the_sizes_of_quorums_count_where_they_were_chosen() {
    let mut case = healthy();
    for (index, member) in case.members.iter_mut().enumerate() {
        let mut told = evidence(index);
        (told["status"]["elect"], told["status"]["commit"]) = (json!(3), json!(1));
        *member = looked(index, told);
    }
    let text = report::text(&case, &[]);
    assert!(text.contains("0 of 3 votes may still fail"), "{text}");
    case.members[2].looks = Err("refused".into());
    let worst = examine(&case, &Thresholds::default()).remove(0);
    assert!(
        worst.what.contains("too few are left to elect"),
        "{worst:?}"
    );
    let shown = "2 of 3 members with a vote answer; 3 elect a leader, 1 commit a write";
    assert_eq!(worst.evidence, shown);
}

#[test]
fn a_witness_is_no_copy() {
    let witnessed = || {
        let mut case = healthy();
        let mut members = members();
        members[2]["witness"] = json!(true);
        for (index, looked_at) in case.members.iter_mut().enumerate() {
            let mut told = evidence(index);
            told["status"]["members"] = members.clone();
            told["status"]["copies"] = json!(1);
            // It has no state, and nobody compares it.
            told["status"]["digest"] = json!(if index == 2 { "bb" } else { "aa" });
            *looked_at = looked(index, told);
        }
        case.members[2].member.witness = true;
        case
    };
    assert_eq!(findings(&witnessed()), []);
    let mut case = witnessed();
    case.members[1].looks = Err("refused".into());
    let found = examine(&case, &Thresholds::default());
    let copies = found.iter().find(|finding| finding.kind == "copies");
    let copies = copies.expect("one copy is left");
    assert_eq!(copies.severity, Critical);
    assert!(copies.what.contains("without redundancy"), "{copies:?}");
    assert!(copies.remedy.contains("n2"), "{copies:?}");
    // The loss of the witness costs votes and no copy.
    let mut case = witnessed();
    case.members[2].looks = Err("refused".into());
    let found = examine(&case, &Thresholds::default());
    assert!(found.iter().all(|finding| finding.kind != "copies"));
}

#[test]
fn few_votes_and_learners_are_named() {
    let mut case = healthy();
    case.members.pop();
    case.members[1].member.voter = false;
    let expected = [
        (Warning, "quorum", "cluster".to_owned()),
        (Note, "quorum", "n2".to_owned()),
    ];
    // Gossip at both still knows the third, who is no member in this case.
    let found: Vec<_> = findings(&case)
        .into_iter()
        .filter(|(_, kind, _)| *kind != "gossip")
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn what_the_group_says_of_itself_is_judged() {
    let of_leader = |path: &str, value: Value| {
        let mut case = healthy();
        let mut first = evidence(0);
        *first.pointer_mut(path).unwrap() = value;
        case.members[0] = looked(0, first);
        case
    };
    let alarm = of_leader("/status/alarms", json!(["NOSPACE"]));
    finds(&alarm, Critical, "alarm", "cluster");
    let full = of_leader("/status/held_bytes", json!(1 << 30));
    finds(&full, Warning, "quota", "cluster");
    let mut behind = members();
    behind[2]["lag"] = json!(5000);
    finds(&of_leader("/status/members", behind), Warning, "lag", "n3");
    let wrong = changed(|third| third["status"]["digest"] = json!("bb"));
    finds(&wrong, Critical, "replicas", "n3");
    let parted = changed(|third| third["status"]["leader"] = json!("n2"));
    finds(&parted, Warning, "leader", "cluster");
}

#[test]
fn clocks_are_compared_with_the_middle() {
    const DAY: i64 = 24 * 3600 * 1000;
    let mut case = healthy();
    let Ok((_, Some(look))) = &mut case.members[1].looks else {
        panic!("looked at twice");
    };
    look.ahead_milliseconds = DAY;
    finds(&case, Critical, "clock", "n2");
    // This machine's own clock is wrong: the members agree.
    for looked in &mut case.members {
        let Ok((_, Some(look))) = &mut looked.looks else {
            panic!("looked at twice");
        };
        look.ahead_milliseconds = -DAY;
    }
    assert_eq!(findings(&case), []);
}

#[test]
fn versions_settings_and_distances_are_compared() {
    let older = changed(|third| third["release"] = json!("0.0.9"));
    finds(&older, Warning, "version", "cluster");
    let impatient = changed(|third| {
        third["settings"]["election-timeout-ms"] = json!("400");
    });
    finds(&impatient, Warning, "settings", "cluster");
    let mut far = healthy();
    for index in 0..2 {
        let mut by = evidence(index);
        by["status"]["gossip"]["members"][2]["round_trip_microseconds"] = json!(40_000);
        far.members[index] = looked(index, by);
    }
    finds(&far, Warning, "slow", "n3");
}

#[test]
fn gossip_is_held_against_the_log() {
    let unheard = changed(|third| {
        third["status"]["gossip"]["members"][0]["state"] = json!("dead");
    });
    finds(&unheard, Warning, "gossip", "n1");
    let suspected = changed(|third| {
        third["status"]["gossip"]["members"][0]["state"] = json!("suspect");
    });
    assert_eq!(findings(&suspected), [], "refuted within moments");
    let unknown = changed(|third| {
        let seen = &mut third["status"]["gossip"]["members"];
        seen.as_array_mut().unwrap().remove(0);
    });
    finds(&unknown, Warning, "gossip", "n1");
    let stranger = changed(|third| {
        let seen = &mut third["status"]["gossip"]["members"];
        let mut other = seen[0].clone();
        other["id"] = json!("9f");
        other["name"] = json!("n9");
        seen.as_array_mut().unwrap().push(other);
    });
    finds(&stranger, Warning, "gossip", "n9");
    let slow = changed(|third| third["status"]["gossip"]["unhealthiness"] = json!(4));
    finds(&slow, Warning, "slow", "n3");
    let one_machine = |_: &()| {
        let mut case = healthy();
        for index in 0..3 {
            let mut by = evidence(index);
            for other in 0..3 {
                by["status"]["gossip"]["members"][other]["host"] = json!("h");
            }
            case.members[index] = looked(index, by);
        }
        case
    };
    finds(&one_machine(&()), Warning, "domains", "cluster");
}

#[test]
fn disks_and_files_are_judged() {
    let of = |path: &'static str, value: Value| {
        changed(move |third| *third.pointer_mut(path).unwrap() = value.clone())
    };
    finds(
        &of("/disk/filesystem", json!("tmpfs")),
        Critical,
        "disk",
        "n3",
    );
    finds(&of("/disk/filesystem", json!("nfs")), Warning, "disk", "n3");
    finds(&of("/disk/free_bytes", json!(50)), Warning, "disk", "n3");
    finds(&of("/disk/free_bytes", json!(10)), Critical, "disk", "n3");
    let orphan = json!({"unknown": {"count": 1, "bytes": 5, "oldest_seconds": 1, "names": ["x"]}});
    finds(&of("/files", orphan), Note, "orphans", "n3");
    let left = |age: u64| json!({"partial": {"count": 1, "bytes": 5, "oldest_seconds": age}});
    finds(&of("/files", left(90_000)), Note, "orphans", "n3");
    assert_eq!(findings(&of("/files", left(5))), []);
    let syncs = |bound: &str| {
        let name = "etcd_disk_wal_fsync_duration_seconds_bucket";
        json!(format!(
            "{name}{{le=\"0.01\"}} 50\n{name}{{le=\"{bound}\"}} 100\n{name}{{le=\"+Inf\"}} 100\n"
        ))
    };
    finds(&of("/metrics", syncs("0.25")), Warning, "disk", "n3");
    finds(&of("/metrics", syncs("1.0")), Critical, "disk", "n3");
    assert_eq!(findings(&of("/metrics", syncs("0.05"))), []);
    let failures = json!("quorate_disk_failures_total{lane=\"journal\"} 2\n");
    finds(&of("/metrics", failures), Critical, "disk", "n3");
    let damage = json!("quorate_damage_found_total 2\n");
    finds(&of("/metrics", damage), Warning, "damage", "n3");
    let doubt = json!("quorate_groups_in_doubt 1\n");
    finds(&of("/metrics", doubt), Warning, "damage", "n3");
    assert_eq!(
        findings(&of("/metrics", json!("quorate_groups_in_doubt 0\n"))),
        []
    );
    let files = json!("process_open_fds 90\nprocess_max_fds 100\n");
    finds(&of("/metrics", files), Warning, "process", "n3");
}

#[test]
fn certificates_are_judged_by_what_is_left_of_them() {
    const DAY: i64 = 24 * 3600;
    let now = now_milliseconds() / 1000;
    let with = |from: i64, to: i64, problem: Option<&str>| {
        changed(|third| {
            third["certificates"] = json!([{
                "key": "cert-file", "file": "/c.pem", "subject": "CN=n3", "not_before": from,
                "not_after": to, "problem": problem}]);
        })
    };
    assert_eq!(findings(&with(now - DAY, now + 90 * DAY, None)), []);
    finds(
        &with(now - DAY, now + 9 * DAY, None),
        Warning,
        "certificate",
        "n3",
    );
    finds(
        &with(now - DAY, now + DAY, None),
        Critical,
        "certificate",
        "n3",
    );
    finds(
        &with(now - 9 * DAY, now - DAY, None),
        Critical,
        "certificate",
        "n3",
    );
    finds(
        &with(now + DAY, now + 90 * DAY, None),
        Critical,
        "certificate",
        "n3",
    );
    finds(&with(0, 0, Some("gone")), Warning, "certificate", "n3");
}

#[test]
fn plain_connections_are_named_where_others_reach_them() {
    let plain = changed(|third| {
        for (index, key) in ["peer-tls", "client-tls"].into_iter().enumerate() {
            third["settings"][key] = json!(if index == 0 { "plain" } else { "verified" });
        }
    });
    let expected = [
        // That it differs from the others', and what it means.
        (Warning, "settings", "cluster".to_owned()),
        (Warning, "settings", "n3".to_owned()),
    ];
    assert_eq!(findings(&plain), expected);
}

#[test]
fn the_worst_comes_first_and_decides_the_exit_status() {
    let case = changed(|third| {
        third["release"] = json!("0.0.9");
        third["disk"]["filesystem"] = json!("tmpfs");
    });
    let found = examine(&case, &Thresholds::default());
    let text = report::text(&case, &found);
    let (first, second) = (
        text.find("CRITICAL").unwrap(),
        text.find("WARNING").unwrap(),
    );
    assert!(
        first < second && text.ends_with("found: 1 critical, 1 warning"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&report::json(&case, &found)).unwrap();
    assert_eq!(json["worst"], "critical");
    assert_eq!(json["findings"][1]["kind"], "version");
}

/// A keyspace on all three, which the first one leads, with the second's replica changed.
fn with_keyspaces(count: usize, change: impl Fn(&mut Value)) -> Case {
    let mut case = healthy();
    for (index, member) in case.members.iter_mut().enumerate() {
        let mut told = evidence(index);
        let numbers = 1..=count;
        let placed = numbers.clone().map(
            |number| json!({"name": format!("k{number}"), "group": number, "replicas": NAMES}),
        );
        told["keyspaces"] = placed.collect();
        let groups = numbers.map(|number| {
            // Each leads its share.
            let leads = index == number % 3;
            let mut group = json!({
                "group": number, "in_doubt": false, "witness": false, "elect": 2, "commit": 2,
                "role": if leads { "leader" } else { "follower" }, "leader": NAMES[number % 3],
                "term": 3, "chosen": 9, "applied": 9, "digest": "ab", "alarms": [],
                "farthest_behind": if leads { json!(0) } else { json!(null) },
            });
            if index == 1 {
                change(&mut group);
            }
            group
        });
        told["groups"] = groups.collect();
        *member = looked(index, told);
    }
    case
}

#[test]
fn keyspaces_are_looked_at_each_by_itself() {
    assert_eq!(findings(&with_keyspaces(9, |_| ())), []);
    let both = |change: &dyn Fn(&mut Value), severity, kind| {
        let one = with_keyspaces(1, change);
        finds(&one, severity, kind, "k1");
        let many = with_keyspaces(9, change);
        finds(&many, severity, kind, "keyspaces");
        let worst = examine(&many, &Thresholds::default()).remove(0);
        assert!(worst.what.contains("9 keyspaces"), "{worst:?}");
        assert!(worst.evidence.contains("and 4 more"), "{worst:?}");
    };
    both(&|group| group["in_doubt"] = json!(true), Warning, "repair");
    both(&|group| group["digest"] = json!("cd"), Critical, "replicas");
    both(&|group| group["chosen"] = json!(9000), Warning, "lag");
    let newest = |group: &mut Value| {
        group["applied"] = json!(10);
        group["chosen"] = json!(10);
        group["alarms"] = json!(["NOSPACE"]);
    };
    both(&newest, Critical, "alarm");
}

#[test]
fn a_node_that_is_away_is_one_finding_for_all_keyspaces() {
    let mut case = with_keyspaces(9, |_| ());
    case.members[2].looks = Err("refused".into());
    let expected = [
        (Critical, "quorum", "cluster".to_owned()),
        (Critical, "quorum", "keyspaces".to_owned()),
        (Warning, "member", "n3".to_owned()),
    ];
    assert_eq!(findings(&case), expected);
    case.members[1].looks = Err("refused".into());
    let found = examine(&case, &Thresholds::default());
    let lost = found.iter().find(|each| each.subject == "keyspaces");
    let lost = lost.expect("they have no majority");
    assert!(
        lost.what.contains("9 keyspaces have no majority"),
        "{lost:?}"
    );
    assert!(lost.evidence.contains("not n2, n3"), "{lost:?}");
}

#[test]
fn who_leads_far_more_than_its_share_is_named() {
    let mut case = with_keyspaces(30, |group| group["role"] = json!("follower"));
    for (index, member) in case.members.iter_mut().enumerate() {
        let Ok((first, Some(later))) = &mut member.looks else {
            panic!("it was looked at twice");
        };
        for look in [first, later] {
            for group in &mut look.evidence.groups {
                group.role = if index == 0 { "leader" } else { "follower" }.to_owned();
            }
        }
    }
    finds(&case, Note, "skew", "n1");
}

#[test]
fn who_does_far_more_than_its_share_is_named() {
    // Each leads a third of them, and those that the second one leads are busy.
    let mut case = with_keyspaces(30, |group| group["load"] = json!(5));
    assert_eq!(findings(&case), []);
    for member in &mut case.members {
        let Ok((first, Some(later))) = &mut member.looks else {
            panic!("it was looked at twice");
        };
        for look in [first, later] {
            for group in &mut look.evidence.groups {
                group.load = if group.group % 3 == 1 { 100 } else { 5 };
            }
        }
    }
    finds(&case, Note, "skew", "n2");
    let found = examine(&case, &Thresholds::default());
    let skew = found.iter().find(|each| each.kind == "skew");
    let skew = skew.expect("it was found");
    assert!(skew.evidence.contains("n2 1000"), "{skew:?}");
}
