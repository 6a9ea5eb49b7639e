//! Executes chosen entries against the state, in order, each command at most once.
//!
//! A committed entry can never stop a replica: an entry that cannot be decoded is skipped, and a
//! panic inside a command is caught here, in one place; its buffered effects are dropped with the
//! transaction, and every replica answers "internal error" alike. An execution may also be
//! [interrupted](state::interruption) at a read: it is run again from its beginning.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Incarnation, NodeId, Slot, WallTime};
use cluster::meta;
use consensus::{Entry, Membership, Payload};
use etcd::Routes;
use etcd::auth::Caller;
use etcd::maintenance::{alarm, command as maintenance};
use state::{Admission, EntryStamp, EventBatch, Interrupted, LeaseId, Reader, Snapshot, State};

use crate::batch::{self, OriginatedCommand};
use crate::leases::{self, LeaseOutcome};
use crate::notes::{Metrics, Note};
use crate::system;

/// The number of etcd's protocol in an entry.
pub const ETCD: u8 = 1;

/// What a command came to, on the replica of its origin.
#[derive(Debug)]
pub enum Outcome {
    /// A command of etcd's protocol.
    Etcd(Result<etcd::Response, etcd::Error>),
    /// A command of the node itself.
    System(Result<(), String>),
    /// A command about leases; `None` if it could not be read.
    Leases(Option<LeaseOutcome>),
    /// A command of etcd's maintenance service; `None` if there is nothing to say.
    Maintenance(Result<Option<etcd::MaintenanceResponse>, etcd::Error>),
    /// A command about the table of keyspaces: a sentence for people.
    Meta(Result<String, String>),
    /// It ran before, and its result went with a snapshot or an earlier incarnation: unknown.
    Unknown,
}

/// A result for a command that this node is the origin of.
#[derive(Debug)]
pub struct Executed {
    /// The origin's sequence number.
    pub sequence: u64,
    /// What it came to.
    pub outcome: Outcome,
}

/// One replica of the group's state.
pub struct Replica {
    own: (NodeId, Incarnation),
    state: State,
    /// The membership in force at the applied slot; goes into checkpoints.
    membership: Arc<Membership>,
    /// What has changed since [`Replica::take_events`], one batch per revision.
    events: Vec<EventBatch>,
    interruptions: u64,
    /// The newest level that it may execute.
    level_max: u32,
    /// The table of keyspaces may have changed.
    table_changed: bool,
    /// Prefixes of keys that are in other keyspaces, as the table has them. Nearly always there
    /// are none; kept so that a command costs one look then.
    routes: Option<Routes>,
    /// Of users who have asked lately; says nothing that the state does not.
    gates: etcd::auth::Gates,
}

impl Replica {
    /// A replica whose clients' commands carry `own` as origin, and which executes levels up to
    /// `level_max`.
    #[must_use]
    pub fn new(
        own: (NodeId, Incarnation),
        state: State,
        membership: Membership,
        level_max: u32,
    ) -> Replica {
        let routes = routes_of(&state);
        Replica {
            own,
            state,
            membership: Arc::new(membership),
            events: Vec::new(),
            interruptions: 0,
            level_max,
            table_changed: true,
            routes,
            gates: etcd::auth::Gates::default(),
        }
    }

    /// Whether it can go on: its group has not been raised to a level that it does not know. If
    /// it has, what was executed so far is right, and nothing more may be.
    #[must_use]
    pub fn knows_level(&self) -> bool {
        self.reader().level() <= self.level_max
    }

    /// The newest level that it may execute.
    #[must_use]
    pub fn level_max(&self) -> u32 {
        self.level_max
    }

    /// What can be read.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        self.state.reader()
    }

    /// A handle on the state as it is now, that never changes.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.state.snapshot()
    }

    /// Everything up to here is executed.
    #[must_use]
    pub fn applied(&self) -> Slot {
        self.state.reader().applied()
    }

    /// The membership at the applied slot.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The same, shared: while somebody holds it, it does not change.
    #[must_use]
    pub fn membership_shared(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// The digest of the state at the applied slot.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.state.digest().0
    }

    /// Looks ahead in the index of leases: see [`State::settle_leases`].
    pub fn settle_leases(&mut self, clock: Duration, most: usize) -> bool {
        self.state.settle_leases(clock, most)
    }

    /// How many executions were interrupted and run again.
    #[must_use]
    pub fn interruptions(&self) -> u64 {
        self.interruptions
    }

    /// Whether entries are needed so that compaction can go on.
    #[must_use]
    pub fn compaction_pending(&self) -> bool {
        self.state.compaction_pending()
    }

    /// A snapshot from a peer replaces everything.
    pub fn install(&mut self, state: State, membership: Membership) {
        assert!(
            state.reader().applied() >= self.applied(),
            "a snapshot never takes the state back"
        );
        assert!(
            state.reader().level() <= self.level_max,
            "a checkpoint of a level that this replica does not know is not read"
        );
        self.state = state;
        self.membership = Arc::new(membership);
        self.events.clear();
        self.table_changed = true;
        self.routes = routes_of(&self.state);
    }

    /// Prefixes of keys that are in other keyspaces.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.routes.clone().unwrap_or_default()
    }

    /// Whether a request that names no keyspace is about keys that are in another one by now.
    #[must_use]
    pub fn has_moved(&self, request: &etcd::Request) -> bool {
        let routes = self.routes.as_ref();
        routes.is_some_and(|routes| routes.of_request(request) != Ok(None))
    }

    /// Whether the table of keyspaces may have changed since this was last asked.
    pub fn take_table_change(&mut self) -> bool {
        std::mem::take(&mut self.table_changed)
    }

    /// What has changed since the last time this was asked, or since a snapshot was installed:
    /// one batch per revision, in order.
    pub fn take_events(&mut self) -> Vec<EventBatch> {
        std::mem::take(&mut self.events)
    }

    /// Executes the next entry. Appends what came of this node's own commands to `executed`.
    ///
    /// # Panics
    /// If the group is at a level that this replica does not know.
    pub fn execute(
        &mut self,
        entry: Entry,
        executed: &mut Vec<Executed>,
        metrics: &mut Metrics,
        notes: &mut Vec<Note>,
    ) {
        assert!(
            self.knows_level(),
            "whoever does not know the group's level stops"
        );
        let Entry {
            slot,
            epoch,
            payload,
        } = entry;
        let quiet = EntryStamp {
            slot,
            epoch,
            wall: WallTime::default(),
            elapsed: Duration::ZERO,
        };
        let body = match payload {
            // The engine lets none through but at a witness, which executes nothing.
            Payload::Empty | Payload::Header => return self.state.skip_entry(&quiet),
            Payload::Membership(membership) => {
                self.membership = membership;
                return self.state.skip_entry(&quiet);
            }
            Payload::Commands(body) => body,
        };
        let Some(batch) = batch::decode(&body) else {
            notes.push(Note::BadEntry { slot });
            return self.state.skip_entry(&quiet);
        };
        let stamp = EntryStamp {
            slot,
            epoch,
            wall: batch.wall,
            elapsed: batch.elapsed
                + Duration::from_millis(match mutant::is_on(Mutant::ClockOfReplica) {
                    true => self.own.0.0 % 2,
                    false => 0,
                }),
        };
        self.state.begin_entry(&stamp);
        for command in batch.commands() {
            let outcome = self.execute_command(slot, &command, metrics, notes);
            if (command.origin.node, command.origin.incarnation) == self.own {
                executed.push(Executed {
                    sequence: command.origin.sequence,
                    outcome,
                });
            }
        }
        self.events.append(&mut self.state.end_entry());
    }

    fn execute_command(
        &mut self,
        slot: Slot,
        command: &OriginatedCommand<&[u8]>,
        metrics: &mut Metrics,
        notes: &mut Vec<Note>,
    ) -> Outcome {
        match self.state.admit(command.origin) {
            Admission::Fresh => {
                metrics.commands_executed += 1;
                metrics.bytes_executed += command.command.len() as u64;
            }
            _ if mutant::is_on(Mutant::ExecuteTwice) => {}
            Admission::Duplicate | Admission::Stale => {
                metrics.commands_repeated += 1;
                return Outcome::Unknown;
            }
        }
        #[cfg(feature = "mutants")]
        self.interrupt_some(slot, command.origin.sequence);
        let mut ended = self.run(command);
        if ended.as_ref().is_err_and(|panic| panic.is::<Interrupted>()) {
            // What it had buffered went with its transaction.
            self.interruptions += 1;
            ended = self.run(command);
        }
        match ended {
            Ok(outcome) => outcome,
            Err(panic) => {
                metrics.commands_panicked += 1;
                let text = panic_text(&*panic);
                notes.push(Note::CommandPanicked { slot, text });
                Outcome::Etcd(Err(etcd::Error::Internal(
                    "quorate: the command failed inside and changed nothing; please report this",
                )))
            }
        }
    }

    /// One execution in so many is interrupted at one of its reads, on each replica another.
    #[cfg(feature = "mutants")]
    fn interrupt_some(&mut self, slot: Slot, sequence: u64) {
        const ONE_IN: u64 = 16;
        const READS: u64 = 6;
        let (node, incarnation) = self.own;
        let seed = node.0 ^ incarnation.0 ^ slot.0.rotate_left(20) ^ sequence << 40;
        let mut random = base::Random::from_seed(seed);
        match random.below(ONE_IN) {
            0 => self.state.interrupt_after(random.below(READS) as u32),
            _ => self.state.interrupt_no_more(),
        }
    }

    fn run(&mut self, command: &OriginatedCommand<&[u8]>) -> std::thread::Result<Outcome> {
        let run = || self.dispatch(command);
        catch_unwind(AssertUnwindSafe(run))
    }

    /// Which of these leases somebody may not renew; see [`etcd::auth::Gates::refused_renewals`].
    ///
    /// # Errors
    /// As there.
    pub fn refused_renewals(
        &mut self,
        caller: Option<&Caller>,
        leases: &[LeaseId],
    ) -> Result<Vec<(usize, etcd::Error)>, etcd::Error> {
        let reader = self.state.reader();
        self.gates.refused_renewals(reader, caller, leases)
    }

    /// Whether a user may attach keys to leases, as far as those go that are attached here. Nobody
    /// in particular may: he is looked at where the keys are.
    ///
    /// # Errors
    /// See [`etcd::auth::Gates::check_leases`].
    pub fn check_leases(
        &mut self,
        caller: Option<&Caller>,
        leases: &[LeaseId],
    ) -> Result<(), etcd::Error> {
        let reader = self.state.reader();
        caller.map_or(Ok(()), |caller| {
            self.gates.check_leases(reader, caller, leases)
        })
    }

    /// Whether a command came for keys whose prefix was given to another keyspace before its turn:
    /// alike on every replica, since the routes stand in the same state.
    fn is_elsewhere(&self, command: &[u8]) -> bool {
        let routes = self.routes.as_ref();
        routes.is_some_and(|routes| !routes.leave_alone(command))
    }

    fn dispatch(&mut self, originated: &OriginatedCommand<&[u8]>) -> Outcome {
        let command = originated.command;
        match originated.protocol {
            system::PROTOCOL => {
                let transaction = self.state.transaction();
                Outcome::System(system::execute(transaction, &self.membership, command))
            }
            leases::PROTOCOL => Outcome::Leases(leases::execute(&mut self.state, command)),
            ETCD if self.is_elsewhere(command) => Outcome::Etcd(Err(etcd::Error::KeysMoved)),
            ETCD => {
                let origin = (originated.origin.node, originated.origin.incarnation);
                let awaited = origin == self.own;
                let transaction = self.state.transaction();
                let result = etcd::execute_with(&mut self.gates, transaction, command, awaited);
                #[cfg(feature = "mutants")]
                crate::rehearsal::execute(&mut self.state, self.level_max);
                if matches!(result, Err(etcd::Error::NoSpace)) {
                    alarm::no_space(self.state.transaction(), originated.origin.node.0);
                }
                Outcome::Etcd(result)
            }
            meta::PROTOCOL => {
                self.table_changed = true;
                let outcome = meta::execute(self.state.transaction(), &self.membership, command);
                if meta::is_about_routes(command) {
                    self.routes = routes_of(&self.state);
                }
                Outcome::Meta(outcome)
            }
            maintenance::PROTOCOL => {
                let transaction = self.state.transaction();
                Outcome::Maintenance(maintenance::execute(transaction, command))
            }
            _ => Outcome::Unknown,
        }
    }
}

fn routes_of(state: &State) -> Option<Routes> {
    let routes = meta::routes(state.reader());
    let routes = routes.into_iter();
    let routes = routes.map(|route| (route.prefix, Arc::from(route.keyspace)));
    Some(Routes::new(routes)).filter(|routes| !routes.is_empty())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
