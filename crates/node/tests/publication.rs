//! What nodes publish for watches: every revision once and in order, the same on each node, and
//! before the answers that tell of it. (The simulated world checks the order for every test.)

use etcd::proto::etcdserverpb::PutRequest;
use quorate_node::{Answer, Call};
use state::Event;

mod support;
use support::World;

fn put(world: &mut World, host: usize, key: String) {
    let put = PutRequest {
        key: key.into(),
        value: "x".into(),
        ..PutRequest::default()
    };
    let answer = world.ask(host, Call::Etcd(etcd::Request::Put(put)));
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
}

/// The leader dies now and then; the two that stay have published the very same, and all of it.
#[test]
fn every_node_publishes_every_revision_once() {
    for seed in 0..4 {
        let mut world = World::cluster(seed, 3);
        world.wait_for_leader();
        let (mut written, mut published): (usize, [Vec<Event>; 3]) = Default::default();
        for _ in 0..4 {
            let leader = world.wait_for_leader();
            for _ in 0..15 {
                put(&mut world, written % 3, format!("key{written}"));
                written += 1;
            }
            world.kill(leader);
            put(&mut world, (leader + 1) % 3, format!("key{written}"));
            written += 1;
            world.start(leader);
        }
        world.wait_for_leader();
        world.run(std::time::Duration::from_secs(2));
        for (host, published) in published.iter_mut().enumerate() {
            *published = world.take_published(host);
            // A node that was started again executes its log again, and says that it begins anew.
            published.dedup_by_key(|event| event.key_value.mod_revision);
        }
        let newest = |events: &[Event]| {
            let mut events: Vec<Event> = events.iter().rev().take(10).cloned().collect();
            events.sort_unstable_by_key(|event| event.key_value.mod_revision);
            events
        };
        assert_eq!(newest(&published[0]), newest(&published[1]), "seed {seed}");
        assert_eq!(newest(&published[1]), newest(&published[2]), "seed {seed}");
        let last = published[0].last().expect("something was published");
        assert_eq!(last.key_value.mod_revision, 1 + written as i64);
        assert_eq!(last.key_value.key, format!("key{}", written - 1));
    }
}
