//! The search by revisions and the generic search, which knows nothing of revisions but as one more
//! number in the answers, agree on small histories, sound and corrupted.

mod support;

use std::collections::BTreeMap;

use base::Random;
use checker::history::{EventKind, History, OperationId, Request, Response, Revision};
use checker::linearizability::generic::{Call, Outcome, judge};
use checker::linearizability::keyspace::Keyspace;
use checker::{Options, Verdict, check_history};
use support::{Shape, generate};

type KeyspaceCall = Call<Request, (Revision, Response)>;

/// Whether the generic model has a word for it: it has no stale reads, no old revisions, no leases.
fn is_plain(request: &Request) -> bool {
    match request {
        Request::Range(range) => range.revision == Revision(0) && !range.serializable,
        Request::Put(put) => put.lease.0 == 0,
        Request::Delete(_) | Request::Txn(_) => true,
        _ => false,
    }
}

fn calls(history: &History) -> Vec<KeyspaceCall> {
    let mut calls: BTreeMap<OperationId, KeyspaceCall> = BTreeMap::new();
    for (line, event) in history.events.iter().enumerate() {
        let line = line as u64;
        match &event.event {
            EventKind::Invoke { id, request, .. } => {
                let call = Call {
                    operation: request.clone(),
                    result: None,
                    invoked: line,
                    ended: u64::MAX,
                };
                calls.insert(*id, call);
            }
            EventKind::Ok {
                id,
                revision,
                response,
            } => {
                let call = calls.get_mut(id).expect("it was invoked");
                call.result = Some((*revision, response.clone()));
                call.ended = line;
            }
            EventKind::Fail { id, .. } => {
                calls.remove(id);
            }
            _ => {}
        }
    }
    calls.into_values().collect()
}

/// Only plain operations of a history.
fn plain(mut history: History) -> History {
    let plain: Vec<OperationId> = history
        .events
        .iter()
        .filter_map(|event| match &event.event {
            EventKind::Invoke { id, request, .. } if is_plain(request) => Some(*id),
            _ => None,
        })
        .collect();
    history.events.retain(|event| match &event.event {
        EventKind::Invoke { id, .. }
        | EventKind::Ok { id, .. }
        | EventKind::Fail { id, .. }
        | EventKind::Unknown { id, .. } => plain.contains(id),
        _ => false,
    });
    history
}

/// Changes one answer a little.
fn corrupt(random: &mut Random, history: &mut History) {
    let place = random.below(history.events.len() as u64) as usize;
    let EventKind::Ok {
        revision, response, ..
    } = &mut history.events[place].event
    else {
        return;
    };
    match (random.below(3), response) {
        (0, _) => revision.0 += 1,
        (1, _) if revision.0 > 1 => revision.0 -= 1,
        (_, Response::Range(result)) => {
            let seen = result.key_values.pop();
            result.count -= u64::from(seen.is_some());
        }
        (_, Response::Txn(result)) => {
            result.responses.reverse();
        }
        _ => {}
    }
}

#[test]
fn both_searches_agree() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..1500 {
        let shape = Shape {
            clients: 4,
            keys: 2,
            operations: 16,
            unknown: 0.15,
            watches: 0,
            leases: 0,
        };
        let mut history = plain(generate(seed, &shape));
        if seed % 3 > 0 {
            corrupt(&mut Random::from_seed(seed), &mut history);
        }
        if history.validate().is_err() {
            // An answer turned around does not fit its question any more.
            continue;
        }
        let report = check_history(&history, &Options::default()).unwrap();
        let generic = judge(&Keyspace::default(), &calls(&history), &mut 10_000_000);
        let expected = match generic {
            Outcome::Linearizable(_) => Verdict::Ok,
            Outcome::Impossible { .. } => Verdict::Violation,
            Outcome::Undecided => Verdict::Undecided,
        };
        assert_eq!(report.verdict(), expected, "seed {seed}\n{report}");
        match expected {
            Verdict::Ok => good += 1,
            _ => bad += 1,
        }
    }
    assert!(good > 500 && bad > 200, "{good} good, {bad} bad");
}
