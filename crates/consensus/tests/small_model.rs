//! Every run of a small group, to the end: `small_model/mod.rs` says how, here stands what is
//! walked.
//!
//! Each walk begins where it gets interesting and has a budget: how many timers fire, nodes die and
//! come back, proposals and changes come in. Within that, **everything** happens: each message
//! arrives at any moment, in any order, twice, or never.
//!
//! `SMALL_MODEL_STATES=n` bounds the states of a walk, which then need not be complete.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cluster;
#[path = "small_model/mod.rs"]
mod model;

use base::NodeId;
use model::{Budget, Model, Setting, State, Step, Walked};
use quorate_consensus::{Change, EngineKind, QuorumRule, QuorumSizes};

#[allow(clippy::disallowed_methods)] // A developer bounds it by the environment.
fn most(usual: usize) -> usize {
    let asked = std::env::var("SMALL_MODEL_STATES").ok();
    asked.map_or(usual, |count| count.parse().unwrap())
}

/// Node 0 leads, and everybody knows.
fn led(setting: Setting) -> (Model, State) {
    let (mut model, mut state) = Model::begin(setting);
    for _ in 0..20 {
        if model.leads(&state, 0) {
            return (model, state);
        }
        state = model.given(&state, 0, Step::Timer);
        state = model.all_arrives(&state, &[]);
    }
    panic!("nobody leads");
}

/// Walks through all that can follow, to the end.
fn walk(name: &str, setting: &Setting, begin: (Model, State), budget: Budget) -> Walked {
    let (mut model, mut state) = begin;
    state.budget = budget;
    let most = most(usize::MAX);
    let walked = model.walk(state, most);
    println!(
        "{name}, {}, {budget:?}: {} states of {} locals and {} messages; executed at most {}, {} \
         epochs",
        setting.kind,
        walked.states,
        walked.locals,
        walked.messages,
        walked.executed_most,
        walked.epochs.len()
    );
    assert!(
        walked.is_complete || most < usize::MAX,
        "{name}: {walked:?}"
    );
    walked
}

fn budget(timers: u8, deaths: u8, proposals: u8, late: u8) -> Budget {
    Budget {
        timers,
        deaths,
        proposals,
        changes: 0,
        late,
    }
}

fn slow(kind: EngineKind) -> Setting {
    Setting {
        slow_disks: true,
        ..Setting::of(kind)
    }
}

fn sizes(elect: usize, commit: usize) -> QuorumRule {
    QuorumRule::new(model::NODES, QuorumSizes { elect, commit }).unwrap()
}

/// Node 2 lacks what 0 and 1 have, and its first attempt was heard by nobody.
fn lacking(setting: Setting) -> (Model, State) {
    let (mut model, mut state) = led(setting);
    for _ in 0..2 {
        state = model.given(&state, 0, Step::Propose(9));
        state = model.all_arrives(&state, &[2]);
    }
    state = model.given(&state, 2, Step::Timer);
    state = model.all_arrives(&state, &[2]);
    assert!(model.last(&state, 2) < model.last(&state, 1));
    (model, state)
}

/// From nothing: everything that two timers lead to; a death among them; a late message.
fn first_elections(kind: EngineKind) {
    let setting = Setting::of(kind);
    for budget in [
        budget(2, 0, 0, 0),
        budget(1, 1, 0, 0),
        budget(1, 0, 1, 0),
        budget(1, 0, 0, 1),
    ] {
        let walked = walk(
            "first elections",
            &setting,
            Model::begin(setting.clone()),
            budget,
        );
        let won = walked.epochs.len() >= usize::from(budget.timers);
        assert!(won, "all were won: {walked:?}");
    }
}

/// The same, where a death may leave any part of what was being written.
fn first_elections_on_slow_disks(kind: EngineKind) {
    let setting = slow(kind);
    let begin = Model::begin(setting.clone());
    walk(
        "first elections, slow disks",
        &setting,
        begin,
        budget(1, 1, 0, 0),
    );
}

/// A leader, a proposal, two timers and a death, at any moments; with Paxos, where a successor
/// has more to say, two timers or one and a death.
fn a_leader_and_its_successor(kind: EngineKind) {
    let setting = Setting::of(kind);
    let budgets = match kind {
        EngineKind::Raft => [budget(2, 0, 1, 0), budget(2, 1, 1, 0)],
        EngineKind::Paxos => [budget(2, 0, 1, 0), budget(1, 1, 1, 0)],
    };
    for budget in budgets {
        let begin = led(setting.clone());
        let walked = walk("a leader and its successor", &setting, begin, budget);
        let succeeded = budget.timers < 2 || walked.epochs.len() >= 2;
        assert!(succeeded, "somebody else was elected");
        assert!(walked.executed_most >= 1, "something was chosen");
    }
}

fn two_proposals(kind: EngineKind) {
    let setting = Setting::of(kind);
    let begin = led(setting.clone());
    let walked = walk("two proposals", &setting, begin, budget(2, 0, 2, 0));
    assert!(walked.executed_most >= 2, "both were chosen");
}

/// Messages that come late, or twice.
fn late_messages(kind: EngineKind) {
    let setting = Setting::of(kind);
    for budget in [budget(1, 0, 1, 2), budget(1, 1, 1, 1)] {
        walk("late messages", &setting, led(setting.clone()), budget);
    }
}

fn a_leader_on_slow_disks(kind: EngineKind) {
    let setting = slow(kind);
    walk(
        "slow disks",
        &setting,
        led(setting.clone()),
        budget(1, 1, 1, 0),
    );
}

/// All elect and one commits; two elect and all commit; all elect and two commit.
fn other_quorums(kind: EngineKind) {
    for (elect, commit) in [(3, 1), (2, 3), (3, 2)] {
        let setting = Setting {
            quorums: sizes(elect, commit),
            ..Setting::of(kind)
        };
        for budget in [budget(2, 0, 2, 0), budget(1, 1, 1, 0)] {
            walk("other quorums", &setting, led(setting.clone()), budget);
        }
    }
}

/// A voter is removed, or given its vote, while leaders change.
fn members_change(kind: EngineKind) {
    let (first, third) = (NodeId(1), NodeId(3));
    let changes = [
        (Change::Remove(third), 3),
        (Change::Remove(first), 3),
        (Change::Promote(third), 2),
    ];
    for (change, voters) in changes {
        for quorums in [QuorumRule::default(), sizes(3, 1)] {
            let setting = Setting {
                quorums,
                voters,
                change: Some(change.clone()),
                ..Setting::of(kind)
            };
            let budget = Budget {
                changes: 1,
                ..budget(2, 0, 0, 0)
            };
            walk("members change", &setting, led(setting.clone()), budget);
        }
    }
}

/// Node 2 lacks what 0 and 1 have, and tries for the second time, while the old leader goes on:
/// plain Raft waits for 1; the cure lets 2 pull what it lacks.
fn who_lacks_entries_stands(kind: EngineKind) {
    for pulls in [false, true] {
        let setting = Setting {
            pulls,
            ..Setting::of(kind)
        };
        for budget in [budget(2, 0, 1, 0), budget(2, 1, 0, 0)] {
            walk(
                "who lacks entries stands",
                &setting,
                lacking(setting.clone()),
                budget,
            );
        }
    }
}

/// Two nodes with the entries and one with headers, which keep as many copies as usual, or one.
fn with_a_witness(kind: EngineKind, copies: Option<usize>) -> Setting {
    let quorums = QuorumRule::default();
    Setting {
        witness: true,
        quorums: copies.map_or(quorums, |copies| quorums.with_copies(copies).unwrap()),
        ..Setting::of(kind)
    }
}

fn a_witness_elects(kind: EngineKind) {
    let setting = with_a_witness(kind, None);
    for budget in [budget(2, 0, 0, 0), budget(1, 1, 0, 0), budget(1, 0, 0, 1)] {
        let begin = Model::begin(setting.clone());
        walk("a witness elects", &setting, begin, budget);
    }
}

/// Whatever is lost, late or dead: nothing is chosen without its copies, and nobody leads, or
/// fills, past a header whose entry it lacks.
fn a_witness_and_two_leaders(kind: EngineKind) {
    for copies in [None, Some(1)] {
        let setting = with_a_witness(kind, copies);
        for budget in [budget(2, 0, 1, 0), budget(1, 1, 1, 0), budget(1, 0, 1, 1)] {
            let begin = led(setting.clone());
            let walked = walk("a witness, two leaders", &setting, begin, budget);
            assert!(walked.executed_most >= 1, "something was chosen");
        }
    }
}

/// One of two copies is voted out, or the witness is, or gets its vote.
fn members_change_around_a_witness(kind: EngineKind) {
    let changes = [
        (Change::Remove(NodeId(1)), 3),
        (Change::Remove(NodeId(2)), 3),
        (Change::Remove(NodeId(3)), 3),
        (Change::Promote(NodeId(3)), 2),
    ];
    for (change, voters) in changes {
        for copies in [None, Some(1)] {
            let setting = Setting {
                voters,
                change: Some(change.clone()),
                ..with_a_witness(kind, copies)
            };
            for (timers, proposals) in [(2, 0), (1, 1)] {
                let budget = Budget {
                    changes: 1,
                    ..budget(timers, 0, proposals, 0)
                };
                walk(
                    "a witness, members change",
                    &setting,
                    led(setting.clone()),
                    budget,
                );
            }
        }
    }
}

fn a_witness_on_slow_disks(kind: EngineKind) {
    for copies in [None, Some(1)] {
        let setting = Setting {
            slow_disks: true,
            ..with_a_witness(kind, copies)
        };
        let begin = led(setting.clone());
        walk("a witness, slow disks", &setting, begin, budget(1, 1, 1, 0));
    }
}

/// Runs each of these for every engine.
macro_rules! for_every_engine {
    ($($test:ident)*) => {
        mod raft {
            $(#[test] fn $test() { super::$test(quorate_consensus::EngineKind::Raft) })*
        }
        mod paxos {
            $(#[test] fn $test() { super::$test(quorate_consensus::EngineKind::Paxos) })*
        }
    };
}

for_every_engine! {
    first_elections
    first_elections_on_slow_disks
    a_leader_and_its_successor
    two_proposals
    late_messages
    a_leader_on_slow_disks
    other_quorums
    members_change
    who_lacks_entries_stands
    a_witness_elects
    a_witness_and_two_leaders
    a_witness_on_slow_disks
    members_change_around_a_witness
}
