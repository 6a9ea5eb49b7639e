//! What a node does so that leases live and end: renewals in bulk, expiry, a clock that goes on.
//!
//! ```text
//!   keep-alives, gathered ───▶ one Renew command ──▶ log ──▶ executed: every one is answered
//!
//!   on the leader:  state's clock + running time since its last entry  ≥  a deadline
//!                       └─▶ Expire(lease, the deadline seen) ──▶ log ──▶ void if renewed since,
//!                                                                        or not over after all
//!                   nothing was proposed for a while and leases exist ──▶ an entry for its stamp
//! ```
//!
//! A lease never ends early because execution decides whether it is over, by the clock that stands
//! in the entries: the leader's own estimate only says when it is worth asking, and it leaves out
//! the time of entries that are still on their way, so that it is never ahead. When a leader
//! dies, what is lost is at most the time since its last entry, hence those entries for their
//! stamp; and while nobody leads, the clock stands still.
//!
//! **Keys in other groups go with leases of the first one**, where clients grant them: a group
//! that keys are routed to has a *tied* lease of the same id. It is made before the first key is
//! attached to it, and ended by whoever leads its group once the first group has ended the one that
//! it is tied to. That group's replica on the same node tells, if it has executed the slot in which
//! the parent was granted: what it does not have then has ended, and nothing ends early however far
//! behind it is.
//!
//! ```text
//!   put, lease 7 ─▶ first group, a read round: granted in slot 90 ─▶ Follow(7 lives, 90) ─▶ put
//!   on the leader, every so often: is 7 of slot 90 there?  no ─▶ Follow(7 is over, as of 120)
//! ```
//!
//! Commands, integers little-endian (a protocol of their own, since every client protocol has
//! leases):
//!
//! ```text
//! version u8 = 1 | kind u8 | count u32 | leases
//! kind 1 renew:   id i64
//! kind 2 expire:  id i64 | deadline seconds u64 | nanoseconds u32
//! kind 3 follow:  id i64 | lives u8 | slot u64 | granted seconds u64 | nanoseconds u32
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Instant, Slot};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use state::{Lease, LeaseId, Reader, State, Tie};

use crate::calls::Renewals;

/// The number of this protocol in an entry.
pub const PROTOCOL: u8 = 2;
const VERSION: u8 = 1;

/// What bounds a node's work on leases.
#[derive(Clone, Copy, Debug)]
pub struct LeaseLimits {
    /// While leases exist, a leader that has proposed nothing for this long proposes an entry for
    /// its stamp. So much of the group's time is lost when it dies, at most.
    pub clock_interval: Duration,
    /// After a command that renews leases, further renewals are gathered for so long for each lease
    /// that it named: they are not urgent, and one command with many costs hardly more than one
    /// with one. So where few renew, hardly any waits for others.
    pub renewal_pause: Duration,
    /// ... but never for longer than this.
    pub renewal_gathering: Duration,
    /// So many that were gathered are sent at once: more together would save nothing.
    pub renewals_gathered: usize,
    /// A renewal is not put off by more than this part of what is left of its lease.
    pub renewal_delay_divisor: u32,
    /// Renewals in one command; more make several. What one call asks for stays together.
    pub renewals_per_command: usize,
    /// Leases that were renewed and whose old deadline has come are looked at by the leader; so
    /// many in one pass.
    pub settled_per_pass: usize,
    /// The same on the others, which have the time for it: what they leave behind, the next leader
    /// has to go through before it knows which leases are over.
    pub settled_while_following: usize,
    /// Leases that one command ends; the next follows when it has been executed.
    pub expiries_per_command: usize,
    /// Keys that go with the leases of such a command. One lease with more goes alone.
    pub expired_keys_per_command: u64,
    /// A lease whose end has failed inside (a bug) is let be for this long; each failure doubles
    /// it.
    pub expiry_pause_min: Duration,
    /// The longest such pause.
    pub expiry_pause_max: Duration,
    /// So many such leases are remembered; more are tried again without a pause of their own.
    pub expiries_put_off: usize,
    /// A leader looks this often whether the leases are there that those of its group are tied to.
    pub parents_interval: Duration,
    /// ... at so many of them; the next look goes on behind them.
    pub parents_per_look: usize,
}

/// What is known of a lease of the first group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// It is there: keys can go with it.
    Lives(Tie),
    /// There is none of this id after a slot of the first group's log, unless it was granted later.
    Over {
        /// Which.
        id: LeaseId,
        /// The slot.
        seen: Slot,
    },
}

/// What a group knows of its leases, for other groups whose keys shall go with them.
#[must_use]
pub fn parents(reader: &Reader, ids: Vec<LeaseId>) -> Vec<Parent> {
    let seen = reader.applied();
    let parent = |id| match reader.lease(id).filter(|lease| lease.parent.is_none()) {
        Some(lease) => Parent::Lives(Tie {
            id,
            granted: lease.granted,
            parent: lease.since,
        }),
        None => Parent::Over { id, seen },
    };
    ids.into_iter().map(parent).collect()
}

/// Which of these leases of the first group keys of this group go with.
#[must_use]
pub fn tied(reader: &Reader, mut ids: Vec<LeaseId>) -> Vec<LeaseId> {
    let is_tied = |id| reader.lease(id).is_some_and(|lease| lease.parent.is_some());
    ids.retain(|id| is_tied(*id) && reader.lease_key_count(*id) > 0);
    ids
}

/// Which of these leases have lost the one that they are tied to, as the first group's replica on
/// this node knows it. One that lags behind knows nothing of those that were granted later.
#[must_use]
pub fn orphans(first: &Reader, tied: &[Lease]) -> Vec<Parent> {
    let seen = first.applied();
    let orphan = |lease: &Lease| {
        let parent = lease.parent.filter(|parent| *parent <= seen)?;
        let id = lease.id;
        match first.lease(id) {
            Some(other) if other.since <= parent => None,
            // Another of the same id, granted since: keys that go with it stay.
            Some(other) => Some(Parent::Over {
                id,
                seen: Slot(other.since.0 - 1),
            }),
            None => Some(Parent::Over { id, seen }),
        }
    };
    tied.iter().filter_map(orphan).collect()
}

/// A command about leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCommand {
    /// Let these begin anew.
    Renew(Vec<LeaseId>),
    /// End these, if their deadlines are still those that were seen. Each at its own revision.
    Expire(Vec<(LeaseId, Duration)>),
    /// Tie this group to these, or end what was tied to them. Each at its own revision.
    Follow(Vec<Parent>),
}

impl LeaseCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, count) = match self {
            LeaseCommand::Renew(leases) => (1, leases.len()),
            LeaseCommand::Expire(leases) => (2, leases.len()),
            LeaseCommand::Follow(parents) => (3, parents.len()),
        };
        let mut out = BytesMut::with_capacity(6 + FOLLOW_BYTES * count);
        out.put_u8(VERSION);
        out.put_u8(kind);
        out.put_u32_le(u32::try_from(count).expect("a command names a bounded number of leases"));
        match self {
            LeaseCommand::Renew(leases) => leases.iter().for_each(|id| out.put_i64_le(id.0)),
            LeaseCommand::Expire(leases) => {
                for (id, deadline) in leases {
                    out.put_i64_le(id.0);
                    out.put_u64_le(deadline.as_secs());
                    out.put_u32_le(deadline.subsec_nanos());
                }
            }
            LeaseCommand::Follow(parents) => {
                parents
                    .iter()
                    .for_each(|parent| put_parent(&mut out, parent));
            }
        }
        out.freeze()
    }

    /// The command in `bytes`, or `None` if there is none.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<LeaseCommand> {
        let input = &mut bytes;
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let kind = input.try_get_u8().ok()?;
        let count = input.try_get_u32_le().ok()? as usize;
        let length = match kind {
            1 => 8,
            2 => 20,
            3 => FOLLOW_BYTES,
            _ => return None,
        };
        if input.len() != count.checked_mul(length)? {
            return None;
        }
        if kind == 1 {
            let leases = (0..count).map(|_| Some(LeaseId(input.try_get_i64_le().ok()?)));
            return Some(LeaseCommand::Renew(leases.collect::<Option<_>>()?));
        }
        if kind == 3 {
            let parents = (0..count).map(|_| get_parent(input));
            return Some(LeaseCommand::Follow(parents.collect::<Option<_>>()?));
        }
        let leases = (0..count).map(|_| {
            let id = LeaseId(input.try_get_i64_le().ok()?);
            let seconds = input.try_get_u64_le().ok()?;
            let nanoseconds = input.try_get_u32_le().ok()?;
            (nanoseconds < 1_000_000_000).then(|| (id, Duration::new(seconds, nanoseconds)))
        });
        Some(LeaseCommand::Expire(leases.collect::<Option<_>>()?))
    }
}

/// The length of what [`LeaseCommand::Follow`] says of a lease.
const FOLLOW_BYTES: usize = 29;

fn put_parent(out: &mut BytesMut, parent: &Parent) {
    let (id, lives, slot, granted) = match *parent {
        Parent::Lives(tie) => (tie.id, 1, tie.parent, tie.granted),
        Parent::Over { id, seen } => (id, 0, seen, Duration::ZERO),
    };
    out.put_i64_le(id.0);
    out.put_u8(lives);
    out.put_u64_le(slot.0);
    out.put_u64_le(granted.as_secs());
    out.put_u32_le(granted.subsec_nanos());
}

fn get_parent(input: &mut &[u8]) -> Option<Parent> {
    let id = LeaseId(input.try_get_i64_le().ok()?);
    let lives = input.try_get_u8().ok()?;
    let slot = Slot(input.try_get_u64_le().ok()?);
    let (seconds, nanoseconds) = (input.try_get_u64_le().ok()?, input.try_get_u32_le().ok()?);
    if id == LeaseId(0) || nanoseconds >= 1_000_000_000 {
        return None;
    }
    let granted = Duration::new(seconds, nanoseconds);
    match lives {
        0 if granted.is_zero() => Some(Parent::Over { id, seen: slot }),
        1 => Some(Parent::Lives(Tie {
            id,
            granted,
            parent: slot,
        })),
        _ => None,
    }
}

/// What a command about leases came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// For how long each lease is granted, from now; `None` if it does not exist.
    Renewed(Vec<Option<Duration>>),
    /// How many leases have ended.
    Expired(u64),
    /// Whether the group is tied to all that live: it may have one of its own with such an id.
    Followed(bool),
}

/// Executes a command about leases; `None` if it cannot be read, which changes nothing.
pub fn execute(state: &mut State, command: &[u8]) -> Option<LeaseOutcome> {
    match LeaseCommand::decode(command)? {
        LeaseCommand::Renew(leases) if mutant::is_on(Mutant::ForgetRenewal) => {
            let reader = state.reader();
            let granted = |id: &LeaseId| reader.lease(*id).map(|lease| lease.granted);
            Some(LeaseOutcome::Renewed(leases.iter().map(granted).collect()))
        }
        LeaseCommand::Renew(leases) => Some(LeaseOutcome::Renewed(state.renew_leases(&leases))),
        LeaseCommand::Expire(leases) => {
            let mut expired = 0;
            for (id, seen) in leases {
                if mutant::is_on(Mutant::ExpireInTwo) || mutant::is_on(Mutant::ForgetAttachment) {
                    spoil(state, id, seen);
                }
                let mut transaction = state.transaction();
                let ended = match mutant::is_on(Mutant::ExpireRenewed) {
                    true => transaction.revoke_lease(id),
                    false => transaction.expire_lease(id, seen),
                };
                expired += u64::from(ended.is_some());
                transaction.commit();
            }
            Some(LeaseOutcome::Expired(expired))
        }
        LeaseCommand::Follow(parents) => {
            let mut is_tied = true;
            for parent in parents {
                let mut transaction = state.transaction();
                match parent {
                    Parent::Lives(tie) => is_tied &= transaction.tie_lease(&tie).is_some(),
                    Parent::Over { id, seen } => drop(transaction.untie_lease(id, seen)),
                }
                transaction.commit();
            }
            Some(LeaseOutcome::Followed(is_tied))
        }
    }
}

/// What planted bugs do to the first key of a lease that is over: delete it before the others, or
/// take it away from the lease.
fn spoil(state: &mut State, id: LeaseId, seen: Duration) {
    let reader = state.reader();
    let lease = reader.lease(id);
    if lease.is_none_or(|lease| lease.deadline != seen || seen > reader.clock()) {
        return;
    }
    let first = reader.lease_keys(id).next();
    let Some((space, key)) = first.map(|(space, key)| (space, key.clone())) else {
        return;
    };
    let value = reader.get(space, &key, None).map(|found| found.value);
    let mut transaction = state.transaction();
    match value.filter(|_| mutant::is_on(Mutant::ForgetAttachment)) {
        Some(value) => drop(transaction.put(space, &key, &value, 0)),
        None => drop(transaction.delete(space, &key)),
    }
    transaction.commit();
}

/// How many of the first leases in the index one pass looks at: what is put off is over all the
/// time, stands at the front, and must not hide what is behind it.
#[must_use]
pub fn looked_at(put_off: &PutOff, limits: &LeaseLimits) -> usize {
    limits.settled_per_pass.max(1) + put_off.0.len()
}

/// The leases that are over at `clock`, as many as one command may end: at least one, if there is
/// one. Those in `put_off` are passed over.
#[must_use]
pub fn due(
    reader: &Reader,
    clock: Duration,
    put_off: &PutOff,
    limits: &LeaseLimits,
) -> Vec<(LeaseId, Duration)> {
    let mut keys = 0;
    let mut due = Vec::new();
    let over = reader.leases_due(clock, looked_at(put_off, limits));
    let over = over.filter(|(id, _)| !put_off.holds(*id));
    for (id, deadline) in over.take(limits.expiries_per_command) {
        keys += reader.lease_key_count(id);
        if keys > limits.expired_keys_per_command && !due.is_empty() {
            break;
        }
        due.push((id, deadline));
    }
    due
}

/// Leases whose end has failed inside, which is a bug. They are let be for a while, so that they
/// neither fill the log nor keep others from ending.
#[derive(Debug, Default)]
pub struct PutOff(BTreeMap<LeaseId, Pause>);

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    is_over: bool,
}

impl PutOff {
    fn holds(&self, id: LeaseId) -> bool {
        self.0.get(&id).is_some_and(|pause| !pause.is_over)
    }

    /// Ending this lease has failed.
    pub fn failed(&mut self, now: Instant, id: LeaseId, reader: &Reader, limits: &LeaseLimits) {
        self.0.retain(|id, _| reader.lease(*id).is_some());
        if self.0.len() >= limits.expiries_put_off && !self.0.contains_key(&id) {
            return;
        }
        let before = self.0.get(&id).map_or(Duration::ZERO, |pause| pause.length);
        let length = (before * 2).clamp(limits.expiry_pause_min, limits.expiry_pause_max);
        let pause = Pause {
            until: now + length,
            length,
            is_over: false,
        };
        self.0.insert(id, pause);
    }

    /// Pauses that have come to their end are over.
    pub fn pass(&mut self, now: Instant) {
        for pause in self.0.values_mut() {
            pause.is_over = pause.until <= now;
        }
    }

    /// When the next pause is over, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let pauses = self.0.values().filter(|pause| !pause.is_over);
        pauses.map(|pause| pause.until).min()
    }
}

/// What this node has under way about leases.
#[derive(Debug)]
pub struct Leases {
    /// Keep-alives that have been gathered.
    pub renewals: Vec<Renewals>,
    /// How many leases those are.
    renewals_count: usize,
    /// When those are to be sent, if there are any.
    pub renewals_due: Instant,
    /// Renewals that come before this are gathered until then.
    pub next_renewals: Instant,
    /// An Expire command of this leader is under way; if nothing is heard of it, it counts as lost
    /// from then on.
    pub expiring_until: Option<Instant>,
    /// The leases that command names, in its order.
    pub expiring: Vec<(LeaseId, Duration)>,
    /// Leases that cannot be ended.
    pub put_off: PutOff,
    /// When the next entry for its stamp is due, if nothing else is proposed.
    pub next_clock_entry: Instant,
    /// When to look next whether the leases are there that those of this group are tied to.
    pub next_parents: Instant,
    /// The last one that was looked at.
    pub looked_after: Option<LeaseId>,
    /// The group's clock here, and when it was last seen moving.
    clock: (Duration, Instant),
}

impl Leases {
    /// Nothing is under way.
    #[must_use]
    pub fn new(clock: Duration, now: Instant) -> Leases {
        Leases {
            renewals: Vec::new(),
            renewals_count: 0,
            renewals_due: now,
            next_renewals: now,
            expiring_until: None,
            expiring: Vec::new(),
            put_off: PutOff::default(),
            next_clock_entry: now,
            next_parents: now,
            looked_after: None,
            clock: (clock, now),
        }
    }

    /// Gathers renewals that are not to be put off beyond `latest`.
    pub fn gather(
        &mut self,
        now: Instant,
        renewals: Renewals,
        latest: Instant,
        limits: &LeaseLimits,
    ) {
        if self.renewals.is_empty() {
            self.renewals_due = self.next_renewals;
        }
        self.renewals_count += renewals.leases.len();
        self.renewals.push(renewals);
        self.renewals_due = match self.renewals_count < limits.renewals_gathered {
            true => self.renewals_due.min(latest),
            false => now,
        };
    }

    /// Renewals whose outcome is not known, to be sent again without delay.
    pub fn renew_again(&mut self, now: Instant, renewals: impl IntoIterator<Item = Renewals>) {
        for renewals in renewals {
            self.renewals_count += renewals.leases.len();
            self.renewals.push(renewals);
        }
        self.renewals_due = now;
    }

    /// The renewals to send now, by the commands they make; none while they are gathered.
    pub fn take_renewals(&mut self, now: Instant, limits: &LeaseLimits) -> Vec<Vec<Renewals>> {
        if self.renewals.is_empty() || self.renewals_due > now {
            return Vec::new();
        }
        let count = u32::try_from(self.renewals_count).unwrap_or(u32::MAX);
        let pause = limits.renewal_pause.saturating_mul(count);
        self.next_renewals = now + pause.min(limits.renewal_gathering);
        self.renewals_count = 0;
        let mut commands: Vec<Vec<Renewals>> = Vec::new();
        let mut left = 0;
        for renewals in self.renewals.drain(..) {
            match commands.last_mut() {
                Some(command) if renewals.leases.len() <= left => {
                    left -= renewals.leases.len();
                    command.push(renewals);
                }
                _ => {
                    left = limits
                        .renewals_per_command
                        .saturating_sub(renewals.leases.len());
                    commands.push(vec![renewals]);
                }
            }
        }
        commands
    }

    /// Entries were executed, or a snapshot was installed.
    pub fn saw_clock(&mut self, clock: Duration, now: Instant) {
        if clock != self.clock.0 {
            self.clock = (clock, now);
        }
    }

    /// Where the group's clock is by now, as far as can be known here: it goes on between entries,
    /// by no more than what the next entry is put off.
    #[must_use]
    pub fn estimate(&self, now: Instant, limits: &LeaseLimits) -> Duration {
        let (clock, seen) = self.clock;
        clock.saturating_add(now.since(seen).min(limits.clock_interval))
    }

    /// Another leads, or this node anew: what it proposed before may be lost.
    pub fn leader_changed(&mut self) {
        self.expiring_until = None;
        self.expiring.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_and_no_part_of_one_does() {
        let ids = [i64::MIN, -1, 1, i64::MAX].map(LeaseId);
        let deadline = Duration::new(9_000_000_000, 999_999_999);
        for command in [
            LeaseCommand::Renew(vec![]),
            LeaseCommand::Renew(ids.to_vec()),
            LeaseCommand::Expire(vec![]),
            LeaseCommand::Expire(ids.map(|id| (id, deadline)).to_vec()),
            LeaseCommand::Follow(ids.map(|id| Parent::Over { id, seen: Slot(7) }).to_vec()),
            LeaseCommand::Follow(vec![Parent::Lives(Tie {
                id: LeaseId(-3),
                granted: deadline,
                parent: Slot(u64::MAX),
            })]),
        ] {
            let bytes = command.encode();
            assert_eq!(LeaseCommand::decode(&bytes), Some(command));
            for length in 0..bytes.len() {
                assert_eq!(LeaseCommand::decode(&bytes[..length]), None);
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(LeaseCommand::decode(&longer), None);
        }
        let many = [&[VERSION, 1][..], &u32::MAX.to_le_bytes()].concat();
        assert_eq!(LeaseCommand::decode(&many), None, "more than there is");
        let mut wrong = LeaseCommand::Expire(vec![(LeaseId(1), deadline)])
            .encode()
            .to_vec();
        wrong[22..26].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
        assert_eq!(LeaseCommand::decode(&wrong), None, "no such nanosecond");
    }

    fn renewals(call: u64, count: i64) -> Renewals {
        Renewals {
            call: crate::interface::CallId(call),
            leases: (1..=count).map(LeaseId).collect(),
            refused: Vec::new(),
        }
    }

    #[test]
    fn what_is_gathered_makes_commands_of_bounded_length_in_order() {
        let limits = LeaseLimits {
            renewals_gathered: 100,
            renewals_per_command: 10,
            ..crate::limits::Limits::default().leases
        };
        let at = Instant(0) + Duration::from_secs(100);
        let gathering = limits.renewal_gathering;
        let mut leases = Leases::new(Duration::ZERO, at);
        leases.gather(at, renewals(1, 1), at + gathering, &limits);
        assert_eq!(leases.take_renewals(at, &limits).len(), 1, "at once");
        leases.gather(at, renewals(1, 99), at + gathering, &limits);
        assert!(leases.take_renewals(at, &limits).is_empty(), "soon");
        let at = at + limits.renewal_pause;
        assert_eq!(leases.take_renewals(at, &limits).len(), 1, "after one");
        for (call, count) in [(2, 4), (3, 6), (4, 1), (5, 30), (6, 9), (7, 1)] {
            leases.gather(at, renewals(call, count), at + gathering, &limits);
        }
        assert!(leases.take_renewals(at, &limits).is_empty(), "gathered");
        let commands = leases.take_renewals(at + gathering, &limits);
        let calls = |command: &Vec<Renewals>| -> Vec<u64> {
            command.iter().map(|each| each.call.0).collect()
        };
        let calls: Vec<Vec<u64>> = commands.iter().map(calls).collect();
        assert_eq!(calls, [vec![2, 3], vec![4], vec![5], vec![6, 7]]);
        leases.gather(at, renewals(8, 99), at + gathering, &limits);
        assert!(leases.take_renewals(at, &limits).is_empty());
        leases.gather(at, renewals(9, 1), at + gathering, &limits);
        assert_eq!(
            leases.take_renewals(at, &limits).len(),
            2,
            "so many at once"
        );
    }

    #[test]
    fn leases_that_cannot_be_ended_keep_no_others_from_ending() {
        let limits = crate::limits::Limits::default().leases;
        let mut state = State::new(state::Limits::default());
        state.begin_entry(&state::EntryStamp {
            slot: base::Slot(1),
            epoch: base::Epoch(1),
            wall: base::WallTime(0),
            elapsed: Duration::ZERO,
        });
        let mut transaction = state.transaction();
        for id in 1..=3 {
            transaction.grant_lease(LeaseId(id), Duration::from_secs(2));
        }
        transaction.commit();
        assert!(state.end_entry().is_empty());
        let (reader, clock) = (state.reader(), Duration::from_secs(9));
        let at = Instant(0) + Duration::from_secs(100);
        let ids = |put_off: &PutOff| -> Vec<i64> {
            let due = due(reader, clock, put_off, &limits);
            due.into_iter().map(|(id, _)| id.0).collect()
        };
        let mut put_off = PutOff::default();
        assert_eq!(ids(&put_off), [1, 2, 3]);
        let (mut now, mut pauses) = (at, Vec::new());
        for _ in 0..12 {
            put_off.failed(now, LeaseId(1), reader, &limits);
            assert_eq!(ids(&put_off), [2, 3]);
            let until = put_off.next().expect("it is tried again");
            pauses.push((until - now).as_millis());
            now = until;
            put_off.pass(now);
            assert_eq!(ids(&put_off), [1, 2, 3]);
            assert_eq!(put_off.next(), None);
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 60_000, "no longer than that");
        let few = LeaseLimits {
            expiries_put_off: 1,
            parents_interval: Duration::from_millis(200),
            parents_per_look: 2,
            ..limits
        };
        put_off.failed(now, LeaseId(2), reader, &few);
        assert_eq!(ids(&put_off), [1, 2, 3], "so many are remembered");
    }

    #[test]
    fn the_clock_is_estimated_forward_but_not_beyond_an_interval() {
        let limits = crate::limits::Limits::default().leases;
        let at = Instant(0) + Duration::from_secs(100);
        let mut leases = Leases::new(Duration::from_secs(7), at);
        let millis = Duration::from_millis;
        assert_eq!(leases.estimate(at + millis(300), &limits), millis(7_300));
        leases.saw_clock(Duration::from_secs(7), at + millis(400));
        assert_eq!(leases.estimate(at + millis(400), &limits), millis(7_400));
        let most = Duration::from_secs(7) + limits.clock_interval;
        assert_eq!(leases.estimate(at + Duration::from_secs(60), &limits), most);
        leases.saw_clock(millis(7_390), at + millis(400));
        assert_eq!(leases.estimate(at + millis(400), &limits), millis(7_390));
    }
}
