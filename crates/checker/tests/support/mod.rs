//! Makes valid histories with much concurrency: a store that does one thing at a time, clients that
//! learn of it late, answers that get lost, leases that end, watchers that lag and reconnect.
//!
//! ```text
//! client   invoke ├──── delay ────● effect ──── delay ────┤ ok | lost: unknown
//! store                           one by one, in the order of effects
//! watch                             revisions from the log, later, several in one message
//! ```

use std::collections::BTreeMap;

use base::Random;
use checker::history::{
    ClientId, Compare, Comparison, Delete, Event, EventKind, Failure, Filter, Header, History, Key,
    KeyRange, LeaseGrant, LeaseGranted, LeaseId, LeaseKeptAlive, LeaseName, LeaseTimeToLive,
    LeaseTimeToLiveResult, OperationId, Origin, Put, Range, Request, Response, Revision, Step,
    Target, Time, Txn, Value, WatchCreate, WatchEvent, WatchId, WatchMessage, WatchRevision,
};
use checker::oracle::Store;

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;

/// What kind of history to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) clients: u64,
    pub(crate) keys: u64,
    pub(crate) operations: u64,
    /// Share of operations whose answer is lost; half of them take effect all the same.
    pub(crate) unknown: f64,
    pub(crate) watches: u64,
    pub(crate) leases: u64,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            clients: 8,
            keys: 5,
            operations: 200,
            unknown: 0.05,
            watches: 3,
            leases: 3,
        }
    }
}

struct Planned {
    client: u64,
    invoked: u64,
    effect: Option<u64>,
    ended: Option<u64>,
    request: Request,
}

pub(crate) fn key(number: u64) -> Key {
    Key::from(format!("k{number:03}").as_str())
}

pub(crate) fn all_keys() -> KeyRange {
    KeyRange {
        key: "a".into(),
        range_end: Key::from(vec![0]),
    }
}

fn request(random: &mut Random, shape: &Shape, number: u64) -> Request {
    let key = key(random.below(shape.keys));
    let value = Value::from(format!("v{number}").as_str());
    let put = |lease| Put {
        key: key.clone(),
        value: value.clone(),
        prev_kv: number.is_multiple_of(3),
        lease,
        ..Put::default()
    };
    match random.below(20) {
        0..=6 => Request::Range(Range {
            key,
            ..Range::default()
        }),
        7 => Request::Range(Range {
            key: "k".into(),
            range_end: "l".into(),
            limit: random.below(4),
            ..Range::default()
        }),
        8 => Request::Range(Range {
            key,
            serializable: true,
            ..Range::default()
        }),
        9..=12 => Request::Put(put(LeaseId(0))),
        13 if shape.leases > 0 => {
            Request::Put(put(LeaseId(1 + (random.below(shape.leases)) as i64)))
        }
        14 => Request::Delete(Delete {
            key,
            prev_kv: random.chance(0.5),
            ..Delete::default()
        }),
        15 => Request::Delete(Delete {
            key: key.clone(),
            range_end: crate::support::key(random.below(shape.keys)),
            ..Delete::default()
        }),
        16 => Request::Range(Range {
            key,
            revision: Revision(1 + random.below(5)),
            ..Range::default()
        }),
        _ => Request::Txn(Txn {
            compares: vec![Compare {
                key: key.clone(),
                range_end: Key::default(),
                is: Comparison::Greater,
                target: Target::Version(random.below(4)),
            }],
            success: vec![
                Step::Range(Range {
                    key: key.clone(),
                    ..Range::default()
                }),
                Step::Put(put(LeaseId(0))),
            ],
            failure: vec![
                Step::Put(Put {
                    key: crate::support::key(random.below(shape.keys)),
                    value: value.clone(),
                    ..Put::default()
                }),
                Step::Range(Range {
                    key: "k".into(),
                    range_end: "l".into(),
                    ..Range::default()
                }),
            ],
        }),
    }
}

fn plan(random: &mut Random, shape: &Shape) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut clocks: Vec<u64> = (0..shape.clients).map(|_| 2 * SECOND).collect();
    for number in 0..shape.operations {
        let client = random.below(shape.clients);
        let clock = &mut clocks[client as usize];
        let invoked = *clock + random.below(2 * MILLISECOND);
        let effect = invoked + 1 + random.below(3 * MILLISECOND);
        let ended = effect + 1 + random.below(3 * MILLISECOND);
        *clock = ended + 1;
        let lost = random.chance(shape.unknown);
        let late = random.below(100 * MILLISECOND);
        planned.push(Planned {
            client,
            invoked,
            effect: match (lost, random.chance(0.5)) {
                (false, _) => Some(effect),
                (true, true) => Some(effect + late),
                (true, false) => None,
            },
            ended: Some(ended).filter(|_| !lost),
            request: request(random, shape, number),
        });
    }
    for lease in 1..=shape.leases {
        let client = shape.clients + lease;
        let name = LeaseId(lease as i64);
        let mut at = lease * MILLISECOND;
        let mut add = |at: u64, request: Request| {
            planned.push(Planned {
                client,
                invoked: at,
                effect: Some(at + MILLISECOND),
                ended: Some(at + 2 * MILLISECOND),
                request,
            });
        };
        add(
            at,
            Request::LeaseGrant(LeaseGrant {
                lease: name,
                ttl: 4,
            }),
        );
        for _ in 0..random.below(3) {
            at += SECOND;
            add(at, Request::LeaseKeepAlive(LeaseName { lease: name }));
        }
        at += 8 * SECOND;
        add(
            at,
            Request::LeaseTimeToLive(LeaseTimeToLive {
                lease: name,
                keys: false,
            }),
        );
    }
    planned
}

/// Sequential execution, with leases.
struct World {
    store: Store,
    /// Live leases with their deadlines.
    leases: BTreeMap<LeaseId, u64>,
    /// When each revision was made.
    made: Vec<(Revision, u64)>,
}

impl World {
    fn expire(&mut self, now: u64) {
        let over: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, deadline)| **deadline + 300 * MILLISECOND <= now)
            .map(|(lease, _)| *lease)
            .collect();
        for lease in over {
            let deadline = self.leases.remove(&lease).expect("it was listed");
            let keys: Vec<Key> = self
                .store
                .attached(lease, self.store.revision())
                .cloned()
                .collect();
            let before = self.store.revision();
            self.store.write(&[], &keys);
            if self.store.revision() > before {
                let at = deadline + 300 * MILLISECOND;
                self.made.push((self.store.revision(), at));
            }
        }
    }

    fn execute(&mut self, request: &Request, now: u64) -> Result<Response, Failure> {
        self.expire(now);
        const TTL: u64 = 4 * SECOND;
        match request {
            Request::LeaseGrant(grant) => {
                self.leases.insert(grant.lease, now + TTL);
                Ok(Response::LeaseGrant(LeaseGranted {
                    lease: grant.lease,
                    ttl: 4,
                }))
            }
            Request::LeaseKeepAlive(name) => Ok(Response::LeaseKeepAlive(LeaseKeptAlive {
                ttl: match self.leases.get_mut(&name.lease) {
                    None => 0,
                    Some(deadline) => {
                        *deadline = now + TTL;
                        4
                    }
                },
            })),
            Request::LeaseTimeToLive(question) => {
                let left = self.leases.get(&question.lease);
                Ok(Response::LeaseTimeToLive(LeaseTimeToLiveResult {
                    ttl: left.map_or(-1, |deadline| ((deadline - now) / SECOND) as i64),
                    granted_ttl: left.map_or(0, |_| 4),
                    keys: Vec::new(),
                }))
            }
            Request::Put(put) if put.lease.0 != 0 && !self.leases.contains_key(&put.lease) => {
                Err(Failure::LeaseNotFound)
            }
            request => {
                let before = self.store.revision();
                let answer = self.store.apply(request);
                if self.store.revision() > before {
                    self.made.push((self.store.revision(), now));
                }
                answer
            }
        }
    }
}

/// A valid history of that shape.
pub(crate) fn generate(seed: u64, shape: &Shape) -> History {
    let mut random = Random::from_seed(seed);
    let planned = plan(&mut random, shape);
    let mut order: Vec<usize> = (0..planned.len()).collect();
    order.sort_by_key(|&index| (planned[index].effect, index));
    let mut world = World {
        store: Store::default(),
        leases: BTreeMap::new(),
        made: Vec::new(),
    };
    let mut events: Vec<(u64, EventKind)> = Vec::new();
    for index in order {
        let Planned {
            client,
            invoked,
            effect,
            ended,
            request,
        } = &planned[index];
        let id = OperationId(index as u64);
        let invoke = EventKind::Invoke {
            id,
            client: ClientId(*client),
            request: request.clone(),
        };
        events.push((*invoked, invoke));
        let answer = effect.map(|effect| world.execute(request, effect));
        let revision = world.store.revision();
        let Some(ended) = ended else {
            let reason = "no answer".to_owned();
            events.push((*invoked + 10 * SECOND, EventKind::Unknown { id, reason }));
            continue;
        };
        events.push((
            *ended,
            match answer.expect("what is answered took effect") {
                Ok(response) => EventKind::Ok {
                    id,
                    revision,
                    response,
                },
                Err(failure) => EventKind::Fail { id, failure },
            },
        ));
    }
    world.expire(u64::MAX / 2);
    for watch in 0..shape.watches {
        watches(&mut random, &world, watch, &mut events);
    }
    events.sort_by_key(|(at, _)| *at);
    let mut header = Header::new(Origin::Simulator {
        seed,
        commit: "test".into(),
    });
    header.bounds.lease_late_ns = 301 * MILLISECOND;
    History {
        header,
        events: events
            .into_iter()
            .map(|(at, event)| Event {
                at: Time(at),
                event,
            })
            .collect(),
    }
}

fn watches(random: &mut Random, world: &World, number: u64, events: &mut Vec<(u64, EventKind)>) {
    let watch = WatchId(number);
    let store = &world.store;
    let keys = if number == 0 {
        all_keys()
    } else {
        KeyRange {
            key: key(number),
            range_end: key(number + 2),
        }
    };
    let mut filters = Vec::new();
    if number % 4 == 2 {
        filters.push(Filter::Delete);
    }
    let create = WatchCreate {
        watch,
        client: ClientId(1000 + number),
        key: keys.key.clone(),
        range_end: keys.range_end.clone(),
        start_revision: Revision(if number.is_multiple_of(2) { 2 } else { 0 }),
        prev_kv: number != 1,
        fragment: false,
        filters: filters.clone(),
    };
    events.push((number, EventKind::WatchCreate(create.clone())));
    let created = WatchRevision {
        watch,
        revision: Revision(1),
    };
    events.push((number + 1, EventKind::WatchCreated(created)));
    let mut at = 0;
    let mut waiting: Vec<WatchEvent> = Vec::new();
    for (revision, made) in &world.made {
        for (key, put) in store.changes(*revision) {
            let kind = if put.is_some() {
                Filter::Put
            } else {
                Filter::Delete
            };
            if !keys.contains(key) || filters.contains(&kind) {
                continue;
            }
            let prev_kv = store.previous(key, *revision).cloned();
            let prev_kv = prev_kv.filter(|_| create.prev_kv);
            waiting.push(match put {
                Some(kv) => WatchEvent::Put {
                    kv: kv.clone(),
                    prev_kv,
                },
                None => WatchEvent::Delete {
                    key: key.clone(),
                    mod_revision: *revision,
                    prev_kv,
                },
            });
        }
        at = at.max(*made) + 1 + random.below(5 * MILLISECOND);
        if random.chance(0.6) && !waiting.is_empty() {
            let message = WatchMessage {
                watch,
                revision: *revision,
                fragment: false,
                events: std::mem::take(&mut waiting),
            };
            events.push((at, EventKind::WatchMessage(message)));
        }
        let revision = *revision;
        if waiting.is_empty() && random.chance(0.05) {
            let progress = WatchRevision { watch, revision };
            events.push((at + 1, EventKind::WatchProgress(progress)));
            at += 1;
        }
        if waiting.is_empty() && random.chance(0.03) {
            events.push((at + 1, EventKind::WatchLost { watch }));
            let start_revision = Revision(revision.0 + 1);
            let resume = EventKind::WatchResume {
                watch,
                start_revision,
            };
            events.push((at + 2, resume));
            let created = WatchRevision { watch, revision };
            events.push((at + 3, EventKind::WatchCreated(created)));
            at += 3;
        }
    }
}
