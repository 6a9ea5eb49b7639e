//! Leases in a simulated world: they end in time, never early, and what is kept alive lives, while
//! leaders are killed, paused, cut off and restored.

use std::time::Duration;

use base::{Instant, Random};
use bytes::Bytes;
use etcd::proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest,
};
use quorate_node::{Answer, Call, CallId};
use state::LeaseId;

mod support;

use support::{World, config};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn key_of(lease: i64) -> Bytes {
    Bytes::from(format!("lease/{lease:05}"))
}

fn keep_alive(id: i64) -> Call {
    Call::Etcd(etcd::Request::LeaseKeepAlive(LeaseKeepAliveRequest { id }))
}

fn etcd(answer: Answer) -> etcd::Response {
    match answer {
        Answer::Etcd(Ok(response)) => response,
        other => panic!("expected an answer of etcd's: {other:?}"),
    }
}

/// Grants a lease with a key; says which. 0 leaves the choice to the node.
fn grant(world: &mut World, host: usize, id: i64, ttl: u64) -> i64 {
    let ttl = ttl as i64;
    let request = etcd::Request::LeaseGrant(LeaseGrantRequest { id, ttl });
    let id = match etcd(world.ask(host, Call::Etcd(request))) {
        etcd::Response::LeaseGrant(granted) => granted.id,
        other => panic!("{other:?}"),
    };
    let put = PutRequest {
        key: key_of(id),
        value: Bytes::from_static(b"here"),
        lease: id,
        ..Default::default()
    };
    etcd(world.ask(host, Call::Etcd(etcd::Request::Put(put))));
    id
}

/// The seconds that a keep-alive's answer names.
fn renew(world: &mut World, host: usize, id: i64) -> i64 {
    match etcd(world.ask(host, keep_alive(id))) {
        etcd::Response::LeaseKeepAlive(renewed) => renewed.ttl,
        other => panic!("{other:?}"),
    }
}

fn seconds_left(world: &mut World, host: usize, id: i64) -> i64 {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let request = etcd::Request::LeaseTimeToLive(request);
    match etcd(world.ask(host, Call::Etcd(request))) {
        etcd::Response::LeaseTimeToLive(told) => {
            assert_eq!(told.keys.is_empty(), told.ttl < 0, "a lease has its key");
            told.ttl
        }
        other => panic!("{other:?}"),
    }
}

/// The leases whose keys a node holds, as it says without asking anybody.
fn present(world: &mut World, host: usize) -> Vec<i64> {
    let range = RangeRequest {
        key: Bytes::from_static(b"lease/"),
        range_end: Bytes::from_static(b"lease0"),
        serializable: true,
        ..Default::default()
    };
    let id = world.call(host, Call::Etcd(etcd::Request::Range(range)));
    match etcd(world.answer(id).expect("such a read is answered at once")) {
        etcd::Response::Range(found) => found.kvs.iter().map(|pair| pair.lease).collect(),
        other => panic!("{other:?}"),
    }
}

/// Lets time pass until a node no longer has the lease's key.
fn wait_until_gone(world: &mut World, host: usize, id: i64, patience: Duration) -> Instant {
    let until = world.now + patience;
    while present(world, host).contains(&id) {
        assert!(
            world.now < until,
            "lease {id} is still there\n{}",
            world.picture()
        );
        world.run(millis(1));
    }
    world.now
}

#[test]
fn an_idle_cluster_of_any_size_ends_a_lease_in_time() {
    for (seed, count) in [(1, 1), (2, 3)] {
        let mut world = World::cluster(seed, count);
        let leader = world.wait_for_leader();
        let host = (leader + 1) % count;
        let id = grant(&mut world, host, 0, 5);
        assert!(id > 0, "a node chooses positive ids");
        let before = world.now;
        let gone = wait_until_gone(&mut world, host, id, seconds(10)) - before;
        assert!(gone > millis(4_990), "{count} nodes, after {gone:?}");
        assert!(gone < millis(5_050), "{count} nodes, after {gone:?}");
        assert_eq!(renew(&mut world, host, id), 0);
        assert_eq!(seconds_left(&mut world, host, id), -1);
    }
}

#[test]
fn what_is_left_goes_on_between_entries_and_every_node_tells_it() {
    let mut world = World::cluster(3, 3);
    world.wait_for_leader();
    let id = grant(&mut world, 0, 77, 30);
    world.run(millis(2_400));
    for host in 0..3 {
        assert_eq!(seconds_left(&mut world, host, id), 27);
    }
    // No entry has come since the last half second began.
    world.run(millis(250));
    for host in 0..3 {
        let left = seconds_left(&mut world, host, id);
        assert!(left == 27 || left == 26, "{left}");
    }
    world.run(seconds(3));
    assert_eq!(renew(&mut world, 1, id), 30);
    assert!(seconds_left(&mut world, 2, id) >= 29);
    let revoke = etcd::Request::LeaseRevoke(LeaseRevokeRequest { id });
    etcd(world.ask(2, Call::Etcd(revoke)));
    assert_eq!(seconds_left(&mut world, 1, id), -1);
}

#[test]
fn renewals_of_one_moment_are_one_command() {
    let mut world = World::cluster(4, 3);
    let leader = world.wait_for_leader();
    let ids: Vec<i64> = (1..=40)
        .map(|id| grant(&mut world, leader, id, 60))
        .collect();
    world.run(seconds(2));
    let host = (leader + 1) % 3;
    let executed = |world: &World| world.node(host).metrics().commands_executed;
    let before = executed(&world);
    let mut calls: Vec<Call> = ids.iter().map(|id| keep_alive(*id)).collect();
    calls.push(keep_alive(999));
    let calls = world.call_together(host, calls);
    world.run(millis(20));
    for (index, call) in calls.into_iter().enumerate() {
        let answer = world.answer(call).expect("it was renewed");
        let etcd::Response::LeaseKeepAlive(renewed) = etcd(answer) else {
            panic!("not a keep-alive's answer");
        };
        let expected = ids.get(index).map_or((999, 0), |id| (*id, 60));
        assert_eq!((renewed.id, renewed.ttl), expected);
        let header = renewed.header.expect("answers have a header");
        assert_ne!(
            (header.member_id, header.revision, header.raft_term),
            (0, 0, 0)
        );
    }
    let clock_entries = 1;
    assert!(executed(&world) - before <= 1 + clock_entries);
    assert_eq!(world.node(host).metrics().leases_renewed, 41);
}

#[test]
fn one_call_renews_many_and_hears_of_each_in_its_order() {
    let mut world = World::cluster(4, 3);
    let leader = world.wait_for_leader();
    let host = (leader + 1) % 3;
    for id in 1..=40 {
        grant(&mut world, leader, id, 60 + id as u64);
    }
    world.run(seconds(20));
    let ids = [40, 7, 999, 7, 0, -3, 1];
    let before = world.node(host).metrics().commands_executed;
    let call = Call::RenewLeases {
        leases: ids.map(LeaseId).to_vec(),
        refused: Vec::new(),
    };
    let Answer::LeasesRenewed(Ok(renewed)) = world.ask(host, call) else {
        panic!("they were not renewed");
    };
    assert_eq!(renewed.seconds, [100, 67, 0, 67, 0, 0, 61].map(Ok));
    let header = renewed.header;
    assert_ne!((header.member_id, header.raft_term), (0, 0));
    assert_eq!(header.revision, 41, "one for each key, none for renewals");
    let clock_entries = 1;
    assert!(world.node(host).metrics().commands_executed - before <= 1 + clock_entries);
    assert!(seconds_left(&mut world, leader, 7) >= 66);
    assert!(seconds_left(&mut world, leader, 8) <= 48);
}

/// A node that has no room for a write still renews, revokes, deletes and compacts.
#[test]
fn what_makes_room_is_let_in_by_a_node_that_is_full() {
    let mut world = World::new(10, (0..3).map(|each| config(each, 3)).collect());
    for host in 0..3 {
        let calls = &mut world.config_of(host).limits.calls;
        (calls.command_bytes, calls.reserved_bytes) = (2_000, 2_000);
        world.start(host);
    }
    let leader = world.wait_for_leader();
    let host = (leader + 1) % 3;
    grant(&mut world, leader, 1, 60);
    world.run(seconds(2));
    let put = |value: usize| {
        Call::Etcd(etcd::Request::Put(PutRequest {
            key: "k".into(),
            value: vec![7; value].into(),
            ..PutRequest::default()
        }))
    };
    let delete = Call::Etcd(etcd::Request::DeleteRange(DeleteRangeRequest {
        key: "k".into(),
        ..DeleteRangeRequest::default()
    }));
    let together = vec![put(1_900), put(200), delete, keep_alive(1)];
    let calls = world.call_together(host, together);
    world.run(millis(100));
    let mut answers = calls.into_iter().map(|call| world.answer(call));
    let mut next = || answers.next().flatten().expect("it was answered");
    assert!(matches!(next(), Answer::Etcd(Ok(etcd::Response::Put(_)))));
    assert!(matches!(
        next(),
        Answer::Etcd(Err(etcd::Error::TooManyRequests))
    ));
    assert!(matches!(
        next(),
        Answer::Etcd(Ok(etcd::Response::DeleteRange(_)))
    ));
    assert!(matches!(
        next(),
        Answer::Etcd(Ok(etcd::Response::LeaseKeepAlive(_)))
    ));
}

#[test]
fn renewals_that_come_one_by_one_are_gathered_and_answered_soon() {
    let mut world = World::cluster(8, 3);
    let leader = world.wait_for_leader();
    for host in [leader, (leader + 1) % 3] {
        let first = 100 * host as i64;
        let ids: Vec<i64> = (first + 1..=first + 41)
            .map(|id| grant(&mut world, leader, id, 60))
            .collect();
        world.run(seconds(2));
        let executed = |world: &World| world.node(host).metrics().commands_executed;
        let before = executed(&world);
        // Nothing was renewed of late, so the first need not wait for others.
        let (one, others) = ids.split_first().expect("there are leases");
        let one = world.call(host, keep_alive(*one));
        world.run(millis(5));
        assert!(world.answer(one).is_some(), "it was put off");
        let began = world.now;
        let mut calls = Vec::new();
        for id in others {
            calls.push(world.call(host, keep_alive(*id)));
            world.run(millis(1));
        }
        // A few soon after the first, all others together.
        let answered = calls.iter().filter(|call| world.answer(**call).is_some());
        let few = answered.count();
        assert!((1..=10).contains(&few), "{few}");
        let calls = calls.split_off(few);
        let limits = quorate_node::Limits::default().leases;
        let gathering = limits.renewal_pause + limits.renewal_gathering;
        let round = millis(10);
        world.run((gathering + round).saturating_sub(world.now - began));
        for call in calls {
            let answer = world.answer(call).expect("it was renewed");
            assert!(matches!(
                etcd(answer),
                etcd::Response::LeaseKeepAlive(renewed) if renewed.ttl == 60
            ));
        }
        let clock_entries = 1;
        assert!(executed(&world) - before <= 3 + clock_entries);
    }
}

#[test]
fn so_many_at_once_or_a_lease_that_is_nearly_over_wait_for_nothing() {
    let mut world = World::new(10, (0..3).map(|each| config(each, 3)).collect());
    for host in 0..3 {
        world.config_of(host).limits.leases.renewals_gathered = 10;
        world.start(host);
    }
    let leader = world.wait_for_leader();
    let host = (leader + 1) % 3;
    let soon = grant(&mut world, leader, 1, 2);
    let many: Vec<i64> = (2..=11)
        .map(|id| grant(&mut world, leader, id, 60))
        .collect();
    let executed_since = |world: &mut World, calls: Vec<CallId>| {
        world.run(millis(12));
        let answered = calls.iter().filter(|call| world.answer(**call).is_some());
        answered.count()
    };
    // Ten milliseconds before its end at most a tenth of them may pass.
    world.run(millis(1_000));
    assert_eq!(renew(&mut world, host, soon), 2);
    let renewed = world.now;
    world.run(millis(1_930) - (world.now - renewed));
    assert_ne!(renew(&mut world, host, many[0]), 0);
    assert_ne!(
        renew(&mut world, host, soon),
        0,
        "it was put off until its end"
    );
    world.run(millis(100));
    assert_ne!(renew(&mut world, host, many[0]), 0);
    let calls = many.iter().map(|id| world.call(host, keep_alive(*id)));
    let calls: Vec<CallId> = calls.collect();
    assert_eq!(executed_since(&mut world, calls), 10, "there were enough");
    let calls = many[1..].iter().map(|id| world.call(host, keep_alive(*id)));
    let calls: Vec<CallId> = calls.collect();
    assert_eq!(executed_since(&mut world, calls), 0, "one more could come");
}

#[test]
fn renewals_that_are_gathered_survive_their_leader() {
    let mut world = World::cluster(11, 3);
    let leader = world.wait_for_leader();
    let host = (leader + 1) % 3;
    grant(&mut world, leader, 1, 60);
    for _ in 0..2 {
        world.run(millis(100));
        assert_ne!(renew(&mut world, host, 1), 0);
    }
    let gathered = world.call(host, keep_alive(1));
    world.kill(leader);
    world.run(seconds(3));
    assert!(matches!(
        etcd(world.answer(gathered).expect("another leads")),
        etcd::Response::LeaseKeepAlive(renewed) if renewed.ttl == 60
    ));
}

#[test]
fn thousands_that_end_at_once_end_soon() {
    let mut world = World::new(5, (0..3).map(|each| config(each, 3)).collect());
    for host in 0..3 {
        world.config_of(host).limits.small_read.keys = 10_000;
        world.start(host);
    }
    let leader = world.wait_for_leader();
    let count = 3_500;
    let grants = (1..=count).map(|id| {
        let request = LeaseGrantRequest { id, ttl: 4 };
        Call::Etcd(etcd::Request::LeaseGrant(request))
    });
    world.call_together(leader, grants.collect());
    let puts = (1..=count).map(|lease| {
        let put = PutRequest {
            key: key_of(lease),
            lease,
            ..Default::default()
        };
        Call::Etcd(etcd::Request::Put(put))
    });
    let before = world.now;
    world.call_together(leader, puts.collect());
    world.run(millis(3_900));
    assert_eq!(present(&mut world, leader).len(), count as usize);
    world.run_until(seconds(1), "all have ended", |world| {
        world.node(leader).metrics().leases_expired == count as u64
    });
    let late = (world.now - before).saturating_sub(seconds(4));
    assert!(late < millis(100), "{late:?}");
    assert!(present(&mut world, leader).is_empty());
}

#[test]
fn time_does_not_count_while_everything_is_down_or_suspended() {
    let mut world = World::cluster(6, 3);
    let leader = world.wait_for_leader();
    let id = grant(&mut world, leader, 5, 5);
    world.run(seconds(2));
    (0..3).for_each(|host| world.kill(host));
    world.run(seconds(600));
    (0..3).for_each(|host| world.start(host));
    let leader = world.wait_for_leader();
    let before = world.now;
    world.run(millis(100));
    (0..3).for_each(|host| world.pause(host));
    world.run(seconds(600));
    (0..3).for_each(|host| world.resume(host));
    let gone = wait_until_gone(&mut world, leader, id, seconds(10)) - before;
    let ran = gone - seconds(600);
    // Of the 2 s before the restart at most what the last entry did not say is lost, and of the
    // suspension at most one election timeout counts.
    assert!(ran > millis(2_400), "after {ran:?}");
    assert!(ran < millis(5_000), "after {ran:?}");
}

#[test]
fn a_node_that_stands_alone_does_not_count_its_suspension() {
    let mut world = World::cluster(9, 1);
    world.wait_for_leader();
    let id = grant(&mut world, 0, 5, 5);
    let before = world.now;
    world.run(seconds(1));
    world.pause(0);
    world.run(seconds(600));
    world.resume(0);
    let gone = wait_until_gone(&mut world, 0, id, seconds(10)) - before;
    let ran = gone - seconds(600);
    assert!(
        ran > millis(4_400),
        "its client had no chance to renew it: {ran:?}"
    );
    assert!(ran < millis(5_100), "after {ran:?}");
}

#[test]
fn a_replica_restored_from_a_snapshot_ends_leases_in_time() {
    let mut world = World::new(7, (0..3).map(|each| config(each, 3)).collect());
    for host in 0..3 {
        world.config_of(host).limits.checkpoint_log_bytes = 8 << 10;
        world.start(host);
    }
    let leader = world.wait_for_leader();
    let follower = (leader + 1) % 3;
    let third = (leader + 2) % 3;
    world.kill(follower);
    for id in 1..=50 {
        grant(&mut world, leader, id, 8);
    }
    for _ in 0..200 {
        let id = grant(&mut world, leader, 0, 1_000);
        let revoke = etcd::Request::LeaseRevoke(LeaseRevokeRequest { id });
        etcd(world.ask(leader, Call::Etcd(revoke)));
    }
    world.start(follower);
    let installed = |world: &World| {
        let notes = world.notes.iter();
        let mut texts = notes
            .filter(|(host, _)| *host == follower)
            .map(|(_, note)| note);
        texts.any(|note| matches!(note, quorate_node::Note::SnapshotInstalled { .. }))
    };
    world.run_until(seconds(5), "a snapshot", installed);
    // From now on only the restored one and one other are there.
    world.kill(leader);
    let before = world.now;
    for id in 1..=50 {
        assert_ne!(
            renew(&mut world, third, id),
            0,
            "lease {id} has ended early"
        );
    }
    let renewed = world.now;
    world.run(seconds(8).saturating_sub(millis(20)) - (renewed - before));
    assert_eq!(present(&mut world, follower).len(), 50);
    world.run(millis(600) + (renewed - before));
    assert!(
        present(&mut world, follower).is_empty(),
        "{:?}",
        present(&mut world, follower)
    );
}

/// A client that keeps a lease alive, until it dies.
struct Keeper {
    id: i64,
    ttl: Duration,
    dies_at: Instant,
    /// When the last keep-alive was sent, and which one has no answer yet.
    sent_at: Instant,
    pending: Option<CallId>,
    /// Until then it lives, by what its client was told: counted from before it asked.
    safe_until: Instant,
    /// It cannot have been renewed later: when the last answer came, or when the time of a
    /// keep-alive that was never answered was up.
    renewed_by: Instant,
    gone: bool,
}

/// What happens to the cluster, and how much of it was not led.
struct Trouble {
    random: Random,
    next: Instant,
    /// What is to be undone, and when.
    repair: Option<(Instant, usize, Fault)>,
    led: bool,
    leaderless: Vec<(Instant, Instant)>,
    changes: Vec<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Pause,
    Cut,
}

impl Trouble {
    fn make(&mut self, world: &mut World) {
        let now = world.now;
        if let Some((at, host, fault)) = self.repair
            && at <= now
        {
            match fault {
                Fault::Kill => world.start(host),
                Fault::Pause => world.resume(host),
                Fault::Cut => world.isolate(host, false),
            }
            self.repair = None;
            self.next = now + millis(1_500 + self.random.below(3_000));
        }
        if self.repair.is_some() || self.next > now {
            return;
        }
        let Some(leader) = world.leader() else { return };
        let host = match self.random.chance(0.8) {
            true => leader,
            false => (leader + 1) % 3,
        };
        let fault = match self.random.below(3) {
            0 => Fault::Kill,
            1 => Fault::Pause,
            _ => Fault::Cut,
        };
        match fault {
            Fault::Kill => world.kill(host),
            Fault::Pause => world.pause(host),
            Fault::Cut => world.isolate(host, true),
        }
        let lasts = millis(300 + self.random.below(6_000));
        self.repair = Some((now + lasts, host, fault));
        self.changes.push(now);
    }

    /// The host that is out of order.
    fn host(&self) -> Option<usize> {
        self.repair.map(|(_, host, _)| host)
    }

    fn observe(&mut self, world: &World) {
        let led = (0..3).any(|host| Some(host) != self.host() && leads(world, host));
        match (led, self.led) {
            (false, true) => self.leaderless.push((world.now, world.now)),
            (false, false) => {
                self.leaderless.last_mut().expect("it began").1 = world.now;
            }
            _ => {}
        }
        self.led = led;
    }

    /// How much later than it should a lease may end that was due between these.
    fn excuse(&self, from: Instant, to: Instant) -> Duration {
        let overlap =
            |(start, end): &(Instant, Instant)| (*end).min(to).since((*start).max(from).min(*end));
        let leaderless: Duration = self.leaderless.iter().map(overlap).sum();
        let changes = self
            .changes
            .iter()
            .filter(|at| (from..=to).contains(at))
            .count();
        // What a leader's death loses: its time since its last entry, on top of the gap.
        leaderless + millis(650) * changes as u32
    }
}

fn leads(world: &World, host: usize) -> bool {
    world.is_running(host) && world.node(host).status().leader == Some(format!("n{}", host + 1))
}

impl Keeper {
    fn step(&mut self, world: &mut World, host: usize) {
        if let Some(call) = self.pending
            && let Some(answer) = world.answer(call)
        {
            self.pending = None;
            if let Answer::Etcd(Ok(etcd::Response::LeaseKeepAlive(renewed))) = answer {
                if renewed.ttl == 0 {
                    assert!(
                        world.now >= self.safe_until,
                        "lease {} was said to have ended early",
                        self.id
                    );
                    self.gone = true;
                } else {
                    self.safe_until = self.sent_at + self.ttl;
                    self.renewed_by = self.renewed_by.max(world.now);
                }
            }
        }
        let now = world.now;
        let waits = self.pending.is_some() && now < self.sent_at + millis(800);
        let due = now >= self.sent_at + self.ttl / 3 || self.pending.is_some();
        if self.pending.is_some() && !waits {
            self.renewed_by = self.sent_at + quorate_node::Timing::default().request_timeout;
            self.pending = None;
        }
        if !self.gone && !waits && due && now < self.dies_at {
            self.sent_at = now;
            self.pending = Some(world.call(host, keep_alive(self.id)));
        }
    }
}

fn leases_under_trouble(seed: u64) {
    let mut world = World::new(seed, (0..3).map(|each| config(each, 3)).collect());
    for host in 0..3 {
        world.config_of(host).limits.checkpoint_log_bytes = 16 << 10;
        world.start(host);
    }
    let leader = world.wait_for_leader();
    let mut random = Random::from_seed(seed);
    let end = world.now + seconds(40);
    let mut keepers: Vec<Keeper> = Vec::new();
    for id in 1..=50 {
        let ttl = 2 + random.below(7);
        let before = world.now;
        grant(&mut world, leader, id, ttl);
        // A third of the clients live to the end.
        let dies_at = match random.below(3) {
            0 => end + seconds(100),
            _ => world.now + millis(random.below(30_000)),
        };
        keepers.push(Keeper {
            id,
            ttl: seconds(ttl),
            dies_at,
            sent_at: before,
            pending: None,
            safe_until: before + seconds(ttl),
            renewed_by: world.now,
            gone: false,
        });
    }
    let mut trouble = Trouble {
        random: random.fork(),
        next: world.now + seconds(1),
        repair: None,
        led: true,
        leaderless: Vec::new(),
        changes: Vec::new(),
    };
    let mut ended = 0;
    while world.now < end {
        world.run(millis(10));
        trouble.make(&mut world);
        trouble.observe(&world);
        let faulty = trouble.host();
        for keeper in &mut keepers {
            // Now and then a client asks the wrong node, and gets no answer.
            let host = random.below(3) as usize;
            let host = match Some(host) == faulty && random.chance(0.8) {
                true => (host + 1) % 3,
                false => host,
            };
            keeper.step(&mut world, host);
        }
        for host in 0..3 {
            if Some(host) == faulty || !world.is_ready(host) {
                continue;
            }
            let current = world.leader() == Some(host);
            ended += check(&mut world, &trouble, &mut keepers, host, current);
        }
    }
    assert!(
        trouble.changes.len() >= 4,
        "there was trouble: {:?}",
        trouble.changes
    );
    assert!(ended >= 20, "leases have ended: {ended}");
}

/// No lease has ended early, as this host has it; none is late, as the leader has it; and what is
/// kept alive lives. Says how many have ended since the last time.
fn check(
    world: &mut World,
    trouble: &Trouble,
    keepers: &mut [Keeper],
    host: usize,
    current: bool,
) -> usize {
    let now = world.now;
    let here = present(world, host);
    let mut ended = 0;
    for keeper in keepers {
        let is_here = here.contains(&keeper.id);
        if !is_here {
            assert!(
                now >= keeper.safe_until,
                "lease {} of {:?} ended {:?} early\n{}",
                keeper.id,
                keeper.ttl,
                keeper.safe_until - now,
                world.picture()
            );
            let kept = now < keeper.dies_at && keeper.ttl >= seconds(4);
            assert!(!kept, "lease {} was kept alive, and is gone", keeper.id);
            ended += usize::from(!std::mem::replace(&mut keeper.gone, true));
        } else if current && now >= keeper.dies_at.max(keeper.sent_at + seconds(8)) {
            let due = keeper.renewed_by + keeper.ttl;
            let excuse = trouble.excuse(keeper.renewed_by, now);
            assert!(
                now < due + excuse + millis(300) || keeper.pending.is_some(),
                "lease {} of {:?} is {:?} late; the excuse is for {excuse:?}\n{}",
                keeper.id,
                keeper.ttl,
                now - due,
                world.picture()
            );
        }
    }
    ended
}

#[test]
fn no_lease_ends_early_and_all_end_in_time_while_leaders_are_killed_paused_and_cut_off() {
    for seed in 0..6 {
        leases_under_trouble(3000 + seed);
    }
}
