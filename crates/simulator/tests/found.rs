//! Scripts of runs that once failed. Each bug has a test of its own where it was; these see that
//! nothing like it comes back by another way.

#![allow(clippy::disallowed_methods, reason = "scripts are files")]

use std::path::Path;

use simulator::run;
use simulator::run::{Options, keep_panics_quiet};
use simulator::scenario::Scenario;

fn is_clean(name: &str) {
    keep_panics_quiet();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let text = std::fs::read_to_string(folder.join(name)).expect("the script is there");
    let scenario = Scenario::from_script(&text).expect("it is a script");
    let outcome = run(&scenario, Options::default());
    assert_eq!(outcome.violation, None);
    assert!(!outcome.is_liveness_skipped, "a quorum is left to serve");
}

/// Answers to pre-votes took longer than the pause before the next attempt.
#[test]
fn a_slow_network_has_a_leader() {
    is_clean("slow-answers.script");
}

/// The same in Paxos, whose elections are others.
#[test]
fn a_slow_network_has_a_leader_by_paxos() {
    is_clean("slow-answers-paxos.script");
}

/// New checkpoints were written faster than one could be sent, and the old ones deleted.
#[test]
fn a_checkpoint_arrives_although_newer_ones_are_written() {
    is_clean("checkpoints-outrun.script");
}

/// A question of a coordinator came after its next one, and broke the promise to that.
#[test]
fn a_cluster_forms_although_questions_come_late() {
    is_clean("late-question.script");
}

/// A node woke up, counted the votes that waited for it, and led an epoch that was over: nothing
/// wrong, but the simulator asked it for what a later epoch had chosen (seed 3067).
#[test]
fn whoever_leads_too_late_need_not_have_what_later_epochs_chose() {
    is_clean("late-leader.script");
}

/// A candidate was sent a snapshot by somebody outside its quorum, became leader, executed entries
/// behind it, and then the snapshot came into force (seed 1064, with a replica in doubt).
#[test]
fn nobody_leads_while_a_snapshot_is_installed() {
    is_clean("snapshot-late-paxos.script");
}

/// A keyspace of one replica had moved: the one that left was deleted, and the one that stayed
/// forgot in a restart that it is alone now, and waited for the other's promise for ever (seed
/// 4764).
#[test]
fn who_is_alone_after_a_move_remembers_it() {
    is_clean("last-of-two-paxos.script");
}

/// A node that had been sent away from a keyspace read so only when the next move had given it
/// a vote there again, and deleted what it held (seed 5965).
#[test]
fn nobody_closes_what_counts_again_before_it_heard_that_it_did_not() {
    is_clean("closed-late.script");
}

/// A replica that was started again read its log back entry by entry, from a slow disk, and never
/// caught up with what clients went on writing: the simulator had taken too much away (seed 11403).
#[test]
fn whoever_reads_its_log_from_a_slow_disk_catches_up() {
    is_clean("slow-reader.script");
}

/// Two batches were chosen in one pass, and the first of them raised the group to a level that the
/// node did not know: it went on to the second one, and panicked (seed 14866).
#[test]
fn whoever_meets_a_level_that_it_does_not_know_refuses() {
    is_clean("unknown-level.script");
}

/// An answer reached its client when the keyspace had left the node, and counted for the replica
/// that came there later: a watch on that, which was not filled yet, was held to it (seed 2680).
#[test]
fn an_answer_that_arrives_late_was_given_before() {
    is_clean("answer-after-leaving.script");
}

/// A follower that lacked something before what it had received died with what it had not written,
/// and was never sent that again: nothing was chosen any more (seed 6963).
#[test]
fn what_a_follower_has_received_and_lost_is_sent_once_more() {
    is_clean("received-and-lost.script");
}
