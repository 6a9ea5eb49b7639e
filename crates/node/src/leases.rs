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
//! Commands, integers little-endian (a protocol of their own, since every client protocol has
//! leases):
//!
//! ```text
//! version u8 = 1 | kind u8 | count u32 | leases
//! kind 1 renew:   id i64
//! kind 2 expire:  id i64 | deadline seconds u64 | nanoseconds u32
//! ```

use std::time::Duration;

use base::Instant;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use state::{LeaseId, Reader, State};

use crate::interface::CallId;

/// The number of this protocol in an entry.
pub const PROTOCOL: u8 = 2;
const VERSION: u8 = 1;

/// What bounds a node's work on leases.
#[derive(Clone, Copy, Debug)]
pub struct LeaseLimits {
    /// While leases exist, a leader that has proposed nothing for this long proposes an entry for
    /// its stamp. So much of the group's time is lost when it dies, at most.
    pub clock_interval: Duration,
    /// A node sends renewals this far apart, at least, and gathers what comes in between: they
    /// are not urgent, and one command with many costs hardly more than one with one.
    pub renewal_gathering: Duration,
    /// So many that were gathered are sent at once: more together would save nothing.
    pub renewals_gathered: usize,
    /// A renewal is not put off by more than this part of what is left of its lease.
    pub renewal_delay_divisor: u32,
    /// Renewals in one command; more make several.
    pub renewals_per_command: usize,
    /// Leases that one command ends; the next follows when it has been executed.
    pub expiries_per_command: usize,
    /// Keys that go with the leases of such a command. One lease with more goes alone.
    pub expired_keys_per_command: u64,
}

/// A command about leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCommand {
    /// Let these begin anew.
    Renew(Vec<LeaseId>),
    /// End these, if their deadlines are still those that were seen. Each at its own revision.
    Expire(Vec<(LeaseId, Duration)>),
}

impl LeaseCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, count) = match self {
            LeaseCommand::Renew(leases) => (1, leases.len()),
            LeaseCommand::Expire(leases) => (2, leases.len()),
        };
        let mut out = BytesMut::with_capacity(6 + 20 * count);
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
            _ => return None,
        };
        if input.len() != count.checked_mul(length)? {
            return None;
        }
        if kind == 1 {
            let leases = (0..count).map(|_| Some(LeaseId(input.try_get_i64_le().ok()?)));
            return Some(LeaseCommand::Renew(leases.collect::<Option<_>>()?));
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

/// What a command about leases came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// For how long each lease is granted, from now; `None` if it does not exist.
    Renewed(Vec<Option<Duration>>),
    /// How many leases have ended.
    Expired(u64),
}

/// Executes a command about leases; `None` if it cannot be read, which changes nothing.
pub fn execute(state: &mut State, command: &[u8]) -> Option<LeaseOutcome> {
    match LeaseCommand::decode(command)? {
        LeaseCommand::Renew(leases) => {
            let mut transaction = state.transaction();
            let renewed = leases
                .into_iter()
                .map(|id| transaction.renew_lease(id).map(|lease| lease.granted));
            let renewed = renewed.collect();
            transaction.commit();
            Some(LeaseOutcome::Renewed(renewed))
        }
        LeaseCommand::Expire(leases) => {
            let mut expired = 0;
            for (id, seen) in leases {
                let mut transaction = state.transaction();
                expired += u64::from(transaction.expire_lease(id, seen).is_some());
                transaction.commit();
            }
            Some(LeaseOutcome::Expired(expired))
        }
    }
}

/// The leases that are over at `clock`, as many as one command may end: at least one, if there is
/// one.
#[must_use]
pub fn due(reader: &Reader, clock: Duration, limits: &LeaseLimits) -> Vec<(LeaseId, Duration)> {
    let mut keys = 0;
    let mut due = Vec::new();
    for (id, deadline) in reader.leases_due(clock).take(limits.expiries_per_command) {
        keys += reader.lease_key_count(id);
        if keys > limits.expired_keys_per_command && !due.is_empty() {
            break;
        }
        due.push((id, deadline));
    }
    due
}

/// What this node has under way about leases.
#[derive(Debug)]
pub struct Leases {
    /// Keep-alives that have been gathered.
    pub renewals: Vec<(CallId, LeaseId)>,
    /// When those are to be sent, if there are any.
    pub renewals_due: Instant,
    /// Renewals that come before this are gathered until then.
    pub next_renewals: Instant,
    /// An Expire command of this leader is under way; if nothing is heard of it, it counts as lost
    /// from then on.
    pub expiring_until: Option<Instant>,
    /// When the next entry for its stamp is due, if nothing else is proposed.
    pub next_clock_entry: Instant,
    /// The group's clock here, and when it was last seen moving.
    clock: (Duration, Instant),
}

impl Leases {
    /// Nothing is under way.
    #[must_use]
    pub fn new(clock: Duration, now: Instant) -> Leases {
        Leases {
            renewals: Vec::new(),
            renewals_due: now,
            next_renewals: now,
            expiring_until: None,
            next_clock_entry: now,
            clock: (clock, now),
        }
    }

    /// Gathers a renewal that is not to be put off beyond `latest`.
    pub fn gather(
        &mut self,
        now: Instant,
        renewal: (CallId, LeaseId),
        latest: Instant,
        limits: &LeaseLimits,
    ) {
        if self.renewals.is_empty() {
            self.renewals_due = self.next_renewals;
        }
        self.renewals.push(renewal);
        self.renewals_due = match self.renewals.len() < limits.renewals_gathered {
            true => self.renewals_due.min(latest),
            false => now,
        };
    }

    /// Renewals whose outcome is not known, to be sent again without delay.
    pub fn renew_again(
        &mut self,
        now: Instant,
        renewals: impl IntoIterator<Item = (CallId, LeaseId)>,
    ) {
        self.renewals.extend(renewals);
        self.renewals_due = now;
    }

    /// The renewals to send now; none while they are gathered.
    pub fn take_renewals(&mut self, now: Instant, limits: &LeaseLimits) -> Vec<(CallId, LeaseId)> {
        if self.renewals.is_empty() || self.renewals_due > now {
            return Vec::new();
        }
        self.next_renewals = now + limits.renewal_gathering;
        std::mem::take(&mut self.renewals)
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
