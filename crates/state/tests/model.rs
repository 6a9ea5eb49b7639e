//! The state against a model that simply remembers every revision as a whole.
//!
//! The same entries go to two states. The second holds snapshots for random times and is now and
//! then replaced by what its own checkpoint restores; it must not be possible to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Random, Slot};
use bytes::Bytes;
use proptest::prelude::*;
use quorate_state::limits::OVERHEAD_BYTES;
use quorate_state::{
    EventBatch, EventKind, KeyRange, KeyValue, Lease, LeaseId, Reader, Revision, Snapshot, Space,
    State, Transaction,
};

mod support;

use support::{finish_compaction, next_stamp, read, small_limits, write};

type Keys = BTreeMap<Bytes, KeyValue>;
type Leases = BTreeMap<i64, Lease>;

#[derive(Clone, Debug)]
enum Operation {
    Put {
        key: u8,
        length: u8,
        lease: i8,
    },
    Delete {
        key: u8,
    },
    DeleteRange {
        from: u8,
        to: u8,
    },
    SetRow {
        key: u8,
        value: u8,
    },
    DeleteRow {
        key: u8,
    },
    /// To how many hundredths of the way from the floor to the latest revision.
    Compact {
        part: u8,
    },
    Lease {
        id: i8,
        what: Leasing,
    },
}

#[derive(Clone, Copy, Debug)]
enum Leasing {
    /// For so many tens of milliseconds, which is how long an entry takes.
    Grant(u8),
    Renew,
    Revoke,
    /// As somebody does who saw the deadline so many tens of milliseconds before or after.
    Expire(i8),
}

#[derive(Clone, Debug)]
struct Command {
    operations: Vec<Operation>,
    commits: bool,
}

#[derive(Clone, Debug)]
struct Round {
    commands: Vec<Command>,
    /// Decides what is asked, and what the second state does beside.
    seed: u64,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => (0..24u8, any::<u8>(), -1..3i8)
            .prop_map(|(key, length, lease)| Operation::Put { key, length, lease }),
        5 => (0..24u8).prop_map(|key| Operation::Delete { key }),
        1 => (0..24u8, 0..24u8).prop_map(|(from, to)| Operation::DeleteRange { from, to }),
        2 => (0..6u8, any::<u8>()).prop_map(|(key, value)| Operation::SetRow { key, value }),
        1 => (0..6u8).prop_map(|key| Operation::DeleteRow { key }),
        1 => (0..=100u8).prop_map(|part| Operation::Compact { part }),
        6 => (-1..3i8, leasing()).prop_map(|(id, what)| Operation::Lease { id, what }),
    ]
}

fn leasing() -> impl Strategy<Value = Leasing> {
    prop_oneof![
        5 => (0..5u8).prop_map(Leasing::Grant),
        2 => Just(Leasing::Renew),
        1 => Just(Leasing::Revoke),
        3 => prop_oneof![3 => Just(0), 1 => -2..3i8].prop_map(Leasing::Expire),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    let command = (
        proptest::collection::vec(operation(), 0..6),
        prop::bool::weighted(0.9),
    )
        .prop_map(|(operations, commits)| Command {
            operations,
            commits,
        });
    (proptest::collection::vec(command, 0..4), any::<u64>())
        .prop_map(|(commands, seed)| Round { commands, seed })
}

fn key_name(key: u8) -> Bytes {
    Bytes::from(format!("key/{key:02}"))
}

/// Everything that ever happened.
#[derive(Clone, Default)]
struct Model {
    /// The keys at each revision; before the first write, the empty revision 1.
    at: BTreeMap<i64, Keys>,
    /// The changed keys of each revision in their order.
    changed: BTreeMap<i64, Vec<Bytes>>,
    rows: BTreeMap<Bytes, Bytes>,
    leases: Leases,
    clock: Duration,
    /// The entry that is being executed.
    slot: Slot,
    floor: i64,
}

impl Model {
    fn revision(&self) -> i64 {
        *self.at.keys().next_back().expect("there is revision 1")
    }

    fn latest(&self) -> &Keys {
        &self.at[&self.revision()]
    }

    /// The model of a command that is running: the keys as it sees them, and what it changed.
    fn put(&self, now: &mut Keys, order: &mut Vec<Bytes>, key: Bytes, value: Bytes, lease: i64) {
        let revision = self.revision() + 1;
        let (create_revision, version) = match now.get(&key) {
            Some(old) if old.mod_revision == revision => (old.create_revision, old.version),
            Some(old) => (old.create_revision, old.version + 1),
            None => (revision, 1),
        };
        order.retain(|other| *other != key);
        order.push(key.clone());
        let mod_revision = revision;
        let written = KeyValue {
            key: key.clone(),
            value,
            create_revision,
            mod_revision,
            version,
            lease,
        };
        now.insert(key, written);
    }

    fn delete(&self, now: &mut Keys, order: &mut Vec<Bytes>, key: &Bytes) -> Option<KeyValue> {
        let old = now.remove(key)?;
        order.retain(|other| other != key);
        order.push(key.clone());
        Some(old)
    }

    /// Does with a lease what `what` says, which can be done.
    fn lease(&self, running: (&mut Keys, &mut Vec<Bytes>, &mut Leases), id: i64, what: Leasing) {
        let (now, order, leases) = running;
        let granted = match what {
            Leasing::Grant(tens) => Some(10 * Duration::from_millis(tens.into())),
            Leasing::Renew => leases.get(&id).map(|lease| lease.granted),
            Leasing::Revoke | Leasing::Expire(_) => None,
        };
        if let Some(granted) = granted {
            let deadline = self.clock + granted;
            let since = match what {
                Leasing::Renew => leases[&id].since,
                _ => self.slot,
            };
            let id = LeaseId(id);
            leases.insert(
                id.0,
                Lease {
                    id,
                    granted,
                    deadline,
                    since,
                    parent: None,
                },
            );
            return;
        }
        let keys = now.values().filter(|value| value.lease == id);
        for key in keys.map(|value| value.key.clone()).collect::<Vec<Bytes>>() {
            self.delete(now, order, &key);
        }
        leases.remove(&id);
    }

    fn commit(&mut self, now: Keys, order: Vec<Bytes>) {
        let base = self.latest().clone();
        let order: Vec<Bytes> = order
            .into_iter()
            .filter(|key| now.contains_key(key) || base.contains_key(key))
            .collect();
        if order.is_empty() {
            return;
        }
        let revision = self.revision() + 1;
        self.at.insert(revision, now);
        self.changed.insert(revision, order);
    }

    fn batch(&self, revision: i64, floor: i64) -> EventBatch {
        let events = self.changed[&revision]
            .iter()
            .map(|key| {
                let now = self.at[&revision].get(key);
                let deleted = KeyValue {
                    key: key.clone(),
                    mod_revision: revision,
                    ..KeyValue::default()
                };
                quorate_state::Event {
                    space: Space::ETCD,
                    kind: if now.is_some() {
                        EventKind::Put
                    } else {
                        EventKind::Delete
                    },
                    key_value: now.cloned().unwrap_or(deleted),
                    previous: self.at[&(revision - 1)]
                        .get(key)
                        .filter(|_| revision > floor)
                        .cloned(),
                }
            })
            .collect();
        EventBatch {
            revision: Revision(revision),
            events,
        }
    }

    /// The bytes held once compaction is done.
    fn held_bytes(&self) -> u64 {
        let row = |key: &Bytes, length: usize| (key.len() + length) as u64 + OVERHEAD_BYTES;
        let mut held: u64 = self
            .rows
            .iter()
            .map(|(key, value)| row(key, value.len()))
            .sum();
        held += self.leases.len() as u64 * (8 + 40 + OVERHEAD_BYTES);
        let mut seen = BTreeSet::new();
        for (revision, keys) in self.changed.iter().rev() {
            for key in keys {
                let value = self.at[revision].get(key);
                let is_reachable =
                    *revision >= self.floor || (value.is_some() && !seen.contains(key));
                if is_reachable {
                    held += row(key, value.map_or(0, |value| value.value.len()));
                }
                if *revision <= self.floor {
                    seen.insert(key.clone());
                }
            }
        }
        held
    }
}

/// Runs one command in a state and, if a model is given, checks each result against it.
fn execute(state: &mut State, command: &Command, model: &mut Model) {
    let mut now = model.latest().clone();
    let mut rows = model.rows.clone();
    let (mut order, mut floor) = (Vec::new(), model.floor);
    let mut leases = model.leases.clone();
    let mut transaction = state.transaction();
    for operation in &command.operations {
        match operation {
            Operation::Put { key, length, lease } => {
                let key = key_name(*key);
                let lease = i64::from(*lease);
                let lease = if leases.contains_key(&lease) {
                    lease
                } else {
                    0
                };
                let value = Bytes::from(vec![*length; usize::from(*length) / 4]);
                let previous = transaction.put(Space::ETCD, &key, &value, lease);
                assert_eq!(previous, now.get(&key).cloned());
                model.put(&mut now, &mut order, key, value, lease);
            }
            Operation::Delete { key } => {
                let key = key_name(*key);
                let previous = transaction.delete(Space::ETCD, &key);
                assert_eq!(previous, model.delete(&mut now, &mut order, &key));
            }
            Operation::DeleteRange { from, to } => {
                let range = KeyRange::Span {
                    start: key_name(*from),
                    end: key_name(*to),
                };
                let found: Vec<KeyValue> = transaction.range(Space::ETCD, &range).collect();
                assert_eq!(transaction.count(Space::ETCD, &range), found.len() as u64);
                let keys: Vec<Bytes> = now
                    .keys()
                    .filter(|key| range.contains(key))
                    .cloned()
                    .collect();
                assert!(found.iter().map(|found| &found.key).eq(&keys));
                for key in keys {
                    let previous = transaction.delete(Space::ETCD, &key);
                    assert_eq!(previous, model.delete(&mut now, &mut order, &key));
                }
            }
            Operation::SetRow { key, value } => {
                let (key, value) = (key_name(*key), Bytes::from(vec![*value; 20]));
                transaction.set_row(Space::SYSTEM, &key, &value);
                rows.insert(key, value);
            }
            Operation::DeleteRow { key } => {
                transaction.delete_row(Space::SYSTEM, &key_name(*key));
                rows.remove(&key_name(*key));
            }
            Operation::Compact { part } => {
                floor = compact(&mut transaction, *part).unwrap_or(floor)
            }
            Operation::Lease { id, what } => {
                let id = i64::from(*id);
                if lease(&mut transaction, &leases, LeaseId(id), *what) {
                    model.lease((&mut now, &mut order, &mut leases), id, *what);
                }
            }
        }
        let everything = KeyRange::From {
            start: Bytes::new(),
        };
        assert!(
            transaction
                .range(Space::ETCD, &everything)
                .eq(now.values().cloned())
        );
        assert!(transaction.rows(Space::SYSTEM).eq(rows.clone()));
    }
    if command.commits {
        transaction.commit();
        model.commit(now, order);
        model.rows = rows;
        model.leases = leases;
        model.floor = floor;
    }
    assert_eq!(state.reader().revision().0, model.revision());
}

/// Does with a lease what `what` says, if that can be done; says whether it was.
fn lease(transaction: &mut Transaction<'_>, leases: &Leases, id: LeaseId, what: Leasing) -> bool {
    let before = leases.get(&id.0).copied();
    assert_eq!(transaction.lease(id), before);
    let clock = transaction.base().clock();
    match what {
        Leasing::Grant(tens) => {
            let can = before.is_none() && id != LeaseId(0);
            if can {
                transaction.grant_lease(id, 10 * Duration::from_millis(tens.into()));
            }
            can
        }
        Leasing::Renew => {
            let renewed = transaction.renew_lease(id);
            let granted = before.map(|lease| lease.granted);
            assert_eq!(
                renewed.map(|lease| lease.deadline),
                granted.map(|granted| clock + granted)
            );
            before.is_some()
        }
        Leasing::Revoke => {
            assert_eq!(transaction.revoke_lease(id).is_some(), before.is_some());
            before.is_some()
        }
        Leasing::Expire(off) => {
            let deadline = before.map_or(Duration::ZERO, |lease| lease.deadline);
            let away = 10 * Duration::from_millis(off.unsigned_abs().into());
            let seen = match off < 0 {
                true => deadline.saturating_sub(away),
                false => deadline + away,
            };
            let over = before.is_some() && off == 0 && deadline <= clock;
            assert_eq!(transaction.expire_lease(id, seen).is_some(), over);
            over
        }
    }
}

/// Compacts so many hundredths of the way to the latest revision; says to where, if anywhere.
fn compact(transaction: &mut Transaction<'_>, part: u8) -> Option<i64> {
    let base = transaction.base();
    let (old, latest) = (base.compacted().0, base.revision().0);
    let to = old + (latest - old) * i64::from(part) / 100;
    (to > old).then(|| {
        transaction.compact(Revision(to));
        to
    })
}

fn some_range(random: &mut Random) -> KeyRange {
    let key = |random: &mut Random| key_name(random.below(26) as u8);
    match random.below(4) {
        0 => KeyRange::Single(key(random)),
        1 => KeyRange::From { start: key(random) },
        2 => KeyRange::From {
            start: Bytes::new(),
        },
        _ => KeyRange::Span {
            start: key(random),
            end: key(random),
        },
    }
}

/// Asks everything that can be asked, at random revisions.
fn ask(reader: &Reader, model: &Model, random: &mut Random) {
    assert_eq!(reader.compacted().0, model.floor);
    assert_eq!(reader.key_count(), model.latest().len() as u64);
    assert_eq!(reader.digest(), reader.recompute_digest());
    assert!(reader.rows(Space::SYSTEM).eq(model.rows.clone()));
    let live = model
        .latest()
        .values()
        .map(|key| (key.key.len() + key.value.len()) as u64);
    assert_eq!(reader.live_bytes(), live.sum::<u64>());
    if !reader.compaction_pending() {
        assert_eq!(reader.held_bytes(), model.held_bytes());
    }
    ask_leases(reader, model);
    let lowest = model.floor.max(1);
    for _ in 0..6 {
        let revision = lowest + random.below((model.revision() - lowest + 1) as u64) as i64;
        let at = random.chance(0.7).then_some(Revision(revision));
        let keys = &model.at[&at.map_or(model.revision(), |at| at.0)];
        let range = some_range(random);
        let expected: Vec<&KeyValue> = keys
            .values()
            .filter(|value| range.contains(&value.key))
            .collect();
        let found: Vec<KeyValue> = reader.range(Space::ETCD, &range, at).collect();
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            expected,
            "{range:?} at {at:?}"
        );
        assert_eq!(reader.count(Space::ETCD, &range, at), expected.len() as u64);
        let key = key_name(random.below(26) as u8);
        assert_eq!(reader.get(Space::ETCD, &key, at).as_ref(), keys.get(&key));
        let after = (model.floor - 1).max(revision - 1);
        let changes: Vec<EventBatch> = reader.changes(Revision(after)).collect();
        let expected: Vec<EventBatch> = model
            .changed
            .range(after + 1..)
            .map(|(revision, _)| model.batch(*revision, model.floor))
            .collect();
        assert_eq!(changes, expected);
    }
}

fn ask_leases(reader: &Reader, model: &Model) {
    assert_eq!(reader.clock(), model.clock);
    let mut expected: Vec<Lease> = model.leases.values().copied().collect();
    expected.sort_by_key(|lease| (lease.deadline, lease.id));
    assert!(reader.leases_by_deadline().eq(expected.iter().copied()));
    assert_eq!(reader.lease_count(), expected.len() as u64);
    let first = expected.first().map(|lease| lease.deadline);
    let no_due_before = reader.no_lease_due_before();
    assert_eq!(no_due_before.is_some(), first.is_some());
    assert!(no_due_before <= first, "no lease is over before that");
    let mut due: Vec<(LeaseId, Duration)> = reader.leases_due(model.clock, usize::MAX).collect();
    due.sort_by_key(|(id, deadline)| (*deadline, *id));
    let over = expected
        .iter()
        .filter(|lease| lease.deadline <= model.clock);
    let over: Vec<(LeaseId, Duration)> = over.map(|lease| (lease.id, lease.deadline)).collect();
    assert_eq!(due, over);
    for id in -1..3 {
        let attached = model
            .latest()
            .values()
            .filter(|value| value.lease == id && id != 0);
        let expected: Vec<&Bytes> = attached.map(|value| &value.key).collect();
        let found: Vec<&Bytes> = reader.lease_keys(LeaseId(id)).map(|(_, key)| key).collect();
        assert_eq!(found, expected);
        assert_eq!(reader.lease_key_count(LeaseId(id)), expected.len() as u64);
    }
}

/// The second state, and what it keeps beside.
struct Shadow {
    state: State,
    held: Vec<(Snapshot, Model)>,
}

impl Shadow {
    fn disturb(&mut self, model: &Model, random: &mut Random) {
        if random.chance(0.3) {
            self.held.push((self.state.snapshot(), model.clone()));
        }
        if !self.held.is_empty() && random.chance(0.2) {
            let (snapshot, model) = self
                .held
                .swap_remove(random.below(self.held.len() as u64) as usize);
            ask(&snapshot, &model, random);
        }
        if random.chance(0.15) {
            let bytes = write(self.state.snapshot(), small_limits());
            let piece = 1 + random.below(700) as usize;
            self.state = read(&bytes, small_limits(), piece).expect("it was just written");
        }
    }
}

fn run_rounds(rounds: &[Round]) {
    let mut model = Model {
        at: BTreeMap::from([(1, Keys::new())]),
        ..Model::default()
    };
    let mut state = State::new(small_limits());
    let mut shadow = Shadow {
        state: State::new(small_limits()),
        held: Vec::new(),
    };
    for round in rounds {
        let mut random = Random::from_seed(round.seed);
        let before = model.clone();
        let stamp = next_stamp(&state);
        model.clock += stamp.elapsed;
        model.slot = stamp.slot;
        state.begin_entry(&stamp);
        shadow.state.begin_entry(&stamp);
        for command in &round.commands {
            execute(&mut shadow.state, command, &mut model.clone());
            execute(&mut state, command, &mut model);
        }
        let batches = state.end_entry();
        assert_eq!(batches, shadow.state.end_entry());
        let new = model.changed.range(before.revision() + 1..);
        assert_eq!(
            batches,
            new.map(|(at, _)| model.batch(*at, 0)).collect::<Vec<_>>()
        );
        ask(state.reader(), &model, &mut random);
        shadow.disturb(&model, &mut random);
        assert_eq!(state.digest(), shadow.state.digest());
        assert_eq!(
            state.compaction_pending(),
            shadow.state.compaction_pending()
        );
    }
    assert_eq!(
        write(state.snapshot(), small_limits()),
        write(shadow.state.snapshot(), small_limits()),
        "equal states have equal checkpoints"
    );
    finish_compaction(&mut state);
    model.clock = state.reader().clock();
    ask(state.reader(), &model, &mut Random::from_seed(1));
    for (snapshot, model) in &shadow.held {
        ask(snapshot, model, &mut Random::from_seed(2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model_and_the_same_however_it_is_held(
        rounds in proptest::collection::vec(round(), 1..60),
    ) {
        run_rounds(&rounds);
    }
}
