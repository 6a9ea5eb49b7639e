//! Valid histories with much concurrency pass, whatever the seed. With one thing changed they are
//! refused, for the right reason.

mod support;

use base::Random;
use checker::history::{
    EventKind, History, KeyValue, Request, Response, Revision, StepResult, Value, WatchEvent,
};
use checker::{Limits, Options, Report, Rule, Verdict, check_history};
use support::{Shape, generate};

fn shape(seed: u64) -> Shape {
    Shape {
        unknown: [0.0, 0.05, 0.2][(seed % 3) as usize],
        watches: (seed / 3) % 4,
        leases: (seed / 12) % 4,
        ..Shape::default()
    }
}

fn judged(history: &History) -> Report {
    check_history(history, &Options::default()).expect("it is a history")
}

#[test]
fn valid_histories_pass() {
    let (mut holes, mut watch_events) = (0, 0);
    for seed in 0..400 {
        let report = judged(&generate(seed, &shape(seed)));
        assert_eq!(report.verdict(), Verdict::Ok, "seed {seed}\n{report}");
        holes += report.counts.holes;
        watch_events += report.counts.watch_events;
    }
    assert!(holes > 1_000, "only {holes} unacknowledged revisions");
    assert!(watch_events > 10_000, "only {watch_events} watch events");
}

/// Without watches, many lost answers are known from counters alone, or not at all: such a history
/// may stay undecided, but rarely, and it is never called a violation.
#[test]
fn many_unknown_results_pass() {
    let options = Options {
        limits: Limits {
            steps: 100_000,
            ..Limits::default()
        },
    };
    let mut decided = 0;
    for seed in 0..40 {
        let shape = Shape {
            unknown: 0.15,
            watches: 0,
            operations: 400,
            keys: 20,
            ..Shape::default()
        };
        let report = check_history(&generate(seed, &shape), &options).unwrap();
        assert!(report.findings.is_empty(), "seed {seed}\n{report}");
        decided += u64::from(report.verdict() == Verdict::Ok);
    }
    assert!(decided >= 36, "only {decided} of 40 were decided");
}

/// Changes one thing; false if there is nothing to change.
type Corrupt = fn(&mut Random, &mut History) -> bool;

/// Some element that fits, at random.
fn pick<T>(random: &mut Random, fitting: Vec<T>) -> Option<T> {
    let index = random.below(fitting.len().max(1) as u64) as usize;
    fitting.into_iter().nth(index)
}

/// Latest linearizable reads that saw something.
fn a_read<'h>(random: &mut Random, history: &'h mut History) -> Option<&'h mut EventKind> {
    let latest: Vec<_> = history
        .events
        .iter()
        .filter_map(|event| match &event.event {
            EventKind::Invoke {
                id,
                request: Request::Range(range),
                ..
            } if range.revision == Revision(0) && !range.serializable => Some(*id),
            _ => None,
        })
        .collect();
    let fitting = history
        .events
        .iter_mut()
        .map(|event| &mut event.event)
        .filter(|event| {
            matches!(event, EventKind::Ok { id, response: Response::Range(result), .. }
                if latest.contains(id) && !result.key_values.is_empty())
        });
    let fitting = fitting.collect();
    pick(random, fitting)
}

fn read_key_values(event: &mut EventKind) -> &mut Vec<KeyValue> {
    match event {
        EventKind::Ok {
            response: Response::Range(result),
            ..
        } => &mut result.key_values,
        _ => unreachable!("it is an answered read"),
    }
}

fn another_value(random: &mut Random, history: &mut History) -> bool {
    a_read(random, history).is_some_and(|event| {
        read_key_values(event)[0].value = Value::from("never written");
        true
    })
}

fn another_version(random: &mut Random, history: &mut History) -> bool {
    a_read(random, history).is_some_and(|event| {
        read_key_values(event)[0].version += 1;
        true
    })
}

fn a_key_unseen(random: &mut Random, history: &mut History) -> bool {
    a_read(random, history).is_some_and(|event| {
        read_key_values(event).remove(0);
        true
    })
}

fn an_old_read(random: &mut Random, history: &mut History) -> bool {
    let Some(EventKind::Ok {
        revision, response, ..
    }) = a_read(random, history)
    else {
        return false;
    };
    let late = revision.0 > 60;
    *revision = Revision(1);
    *response = Response::Range(Default::default());
    late
}

fn puts(history: &mut History) -> Vec<&mut Revision> {
    let revision = |event| match event {
        &mut EventKind::Ok {
            ref mut revision,
            response: Response::Put(_),
            ..
        } => Some(revision),
        _ => None,
    };
    history
        .events
        .iter_mut()
        .filter_map(|event| revision(&mut event.event))
        .collect()
}

fn one_revision_for_two(random: &mut Random, history: &mut History) -> bool {
    let mut puts = puts(history);
    let place = 1 + random.below(puts.len() as u64 - 1) as usize;
    let other = *puts[place - 1];
    *puts[place] = other;
    true
}

fn two_revisions_exchanged(random: &mut Random, history: &mut History) -> bool {
    let mut puts = puts(history);
    let place = random.below(puts.len() as u64 / 2) as usize;
    let other = puts.len() - 1 - place;
    let early = *puts[place];
    let late = std::mem::replace(puts[other], early);
    *puts[place] = late;
    late.0 > early.0 + 40
}

/// A put that was acknowledged, but that nobody after it saw.
fn a_txn_misread(random: &mut Random, history: &mut History) -> bool {
    let fitting = history
        .events
        .iter_mut()
        .filter_map(|event| match &mut event.event {
            EventKind::Ok {
                response: Response::Txn(result),
                ..
            } => result
                .responses
                .iter_mut()
                .find_map(|response| match response {
                    StepResult::Range(result) => result.key_values.first_mut(),
                    _ => None,
                }),
            _ => None,
        })
        .collect();
    pick(random, fitting).is_some_and(|kv: &mut KeyValue| {
        kv.create_revision.0 += 1;
        true
    })
}

fn messages(history: &mut History) -> Vec<&mut Vec<WatchEvent>> {
    history
        .events
        .iter_mut()
        .filter_map(|event| match &mut event.event {
            EventKind::WatchMessage(message) => Some(&mut message.events),
            _ => None,
        })
        .collect()
}

fn an_event_left_out(random: &mut Random, history: &mut History) -> bool {
    let fitting = messages(history)
        .into_iter()
        .filter(|events| events.len() > 1)
        .collect();
    pick(random, fitting).is_some_and(|events: &mut Vec<WatchEvent>| {
        // The last of a stream may come later; one with a successor may not.
        events.remove(0);
        true
    })
}

fn an_event_twice(random: &mut Random, history: &mut History) -> bool {
    pick(random, messages(history)).is_some_and(|events| {
        events.push(events[0].clone());
        true
    })
}

fn events_exchanged(random: &mut Random, history: &mut History) -> bool {
    let fitting = messages(history)
        .into_iter()
        .filter(|events| events[0].revision() < events[events.len() - 1].revision())
        .collect();
    pick(random, fitting).is_some_and(|events: &mut Vec<WatchEvent>| {
        events.reverse();
        true
    })
}

fn another_event(random: &mut Random, history: &mut History) -> bool {
    let fitting = messages(history)
        .into_iter()
        .flatten()
        .filter_map(|event| match event {
            WatchEvent::Put { kv, .. } => Some(kv),
            WatchEvent::Delete { .. } => None,
        })
        .collect();
    pick(random, fitting).is_some_and(|kv: &mut KeyValue| {
        kv.value = Value::from("never written");
        true
    })
}

fn another_previous(random: &mut Random, history: &mut History) -> bool {
    let fitting = messages(history)
        .into_iter()
        .flatten()
        .filter_map(|event| match event {
            WatchEvent::Put { prev_kv, .. } | WatchEvent::Delete { prev_kv, .. } => {
                prev_kv.as_mut()
            }
        })
        .collect();
    pick(random, fitting).is_some_and(|kv: &mut KeyValue| {
        kv.version += 1;
        true
    })
}

fn no_previous(random: &mut Random, history: &mut History) -> bool {
    let fitting = messages(history)
        .into_iter()
        .flatten()
        .filter_map(|event| match event {
            WatchEvent::Put { prev_kv, .. } if prev_kv.is_some() => Some(prev_kv),
            _ => None,
        })
        .collect();
    pick(random, fitting).is_some_and(|kv: &mut Option<KeyValue>| {
        *kv = None;
        true
    })
}

#[test]
fn one_change_is_found() {
    use Rule::{
        FutureRead, RevisionOrder, RevisionTwice, StaleRead, Unexplained, WatchDuplicate,
        WatchMissing, WatchOrder, WatchPrevious, WatchWrongEvent, WrongAnswer,
    };
    let values: &[Rule] = &[WrongAnswer, Unexplained, StaleRead];
    // Name, change, reasons of which one must be given, whether lost answers leave it certain.
    let corruptions: &[(&str, Corrupt, &[Rule], bool)] = &[
        ("another value", another_value, values, true),
        ("another version", another_version, values, false),
        ("a key unseen", a_key_unseen, values, false),
        ("an old read", an_old_read, &[StaleRead], true),
        (
            "one revision twice",
            one_revision_for_two,
            &[RevisionTwice],
            true,
        ),
        (
            "revisions exchanged",
            two_revisions_exchanged,
            &[RevisionOrder, FutureRead],
            true,
        ),
        ("a transaction misread", a_txn_misread, values, true),
        (
            "an event left out",
            an_event_left_out,
            &[WatchMissing],
            false,
        ),
        ("an event twice", an_event_twice, &[WatchDuplicate], true),
        ("events exchanged", events_exchanged, &[WatchOrder], true),
        (
            "another event",
            another_event,
            &[WatchWrongEvent, Unexplained],
            true,
        ),
        (
            "another previous",
            another_previous,
            &[WatchPrevious, Unexplained],
            true,
        ),
        ("no previous", no_previous, &[WatchPrevious], false),
    ];
    for (name, corrupt, rules, always) in corruptions {
        let mut found = 0;
        for seed in 0..60 {
            let mut shape = shape(seed);
            shape.watches = 3;
            if !always {
                shape.unknown = 0.0;
                // The end of a lease that only the changed event showed is nobody's word.
                shape.leases = 0;
            }
            let mut history = generate(seed, &shape);
            if !corrupt(&mut Random::from_seed(seed), &mut history) {
                continue;
            }
            let report = judged(&history);
            assert_eq!(
                report.verdict(),
                Verdict::Violation,
                "{name}, seed {seed}\n{report}"
            );
            assert!(
                rules.iter().any(|rule| report.breaks(*rule)),
                "{name}, seed {seed}\n{report}"
            );
            found += 1;
        }
        assert!(found > 20, "{name} changed only {found} histories");
    }
}

/// Out of steps is never ok.
#[test]
fn without_steps_nothing_is_decided() {
    let options = Options {
        limits: Limits {
            steps: 50,
            ..Limits::default()
        },
    };
    let report = check_history(&generate(1, &shape(1)), &options).unwrap();
    assert_eq!(report.verdict(), Verdict::Undecided, "{report}");
    assert!(
        report.to_string().contains("verdict: UNDECIDED"),
        "{report}"
    );
}
