//! What a replica tells nobody while it is in doubt: it has lost part of what it held.

use std::time::Duration;

use bytes::Bytes;
use consensus::EngineKind;
use etcd::proto::etcdserverpb::{PutRequest, RangeRequest};
use journal::disk::File;
use quorate_node::{Answer, Call};

mod support;

use support::{World, config};

/// Longer than any election and repair here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose disk loses something.
const LOSER: usize = 1;

/// What is written first.
const KEY: &[u8] = b"key0";

/// What is written last.
const LAST: &[u8] = b"last";

fn put(world: &mut World, host: usize, key: &[u8]) {
    let request = etcd::Request::Put(PutRequest {
        key: Bytes::copy_from_slice(key),
        value: Bytes::from(vec![b'v'; 300]),
        ..Default::default()
    });
    let answer = world.ask(host, Call::Etcd(request));
    assert!(matches!(answer, Answer::Etcd(Ok(_))), "{answer:?}");
}

fn serializable_get(key: &'static [u8]) -> Call {
    Call::Etcd(etcd::Request::Range(RangeRequest {
        key: Bytes::from_static(key),
        serializable: true,
        ..Default::default()
    }))
}

fn is_in_doubt(world: &World) -> Option<bool> {
    let running = world.is_running(LOSER).then(|| world.node(LOSER).running());
    let mut groups = running.flatten()?.groups();
    Some(groups.any(|(_, group)| group.is_in_doubt()))
}

/// Three nodes, one of which has lost these files of its disk and is cut off.
fn cut_off_without(engine: EngineKind, lost: fn(&File) -> bool) -> World {
    let configs = (0..3).map(|each| {
        let mut config = config(each, 3);
        config.engine = Some(engine);
        config.limits.checkpoint_log_bytes = 16 << 10;
        config.limits.journal.segment_bytes = 32 << 10;
        config.limits.journal.batch_bytes_max = 8 << 10;
        config
    });
    let mut world = World::new(31, configs.collect());
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    put(&mut world, 0, KEY);
    for number in 1..400 {
        put(&mut world, number % 3, format!("key{number}").as_bytes());
    }
    put(&mut world, 0, LAST);
    world.kill(LOSER);
    let files = world.disk_of(LOSER).list();
    let gone: Vec<File> = files.into_iter().map(|(file, _)| file).collect();
    for file in gone.into_iter().filter(lost) {
        world.disk_of(LOSER).remove(file);
    }
    world.isolate(LOSER, true);
    world.start(LOSER);
    world.run_until(PATIENCE, "it runs", |world| is_in_doubt(world).is_some());
    assert_eq!(is_in_doubt(&world), Some(true), "{engine:?}");
    world
}

/// A replica that had lost its state gave out a snapshot without a key, which was whole by every
/// checksum; and said of each key that there is none.
#[test]
fn who_has_lost_something_neither_gives_out_a_snapshot_nor_speaks_for_itself() {
    let of_state: fn(&File) -> bool = |file| matches!(file, File::Checkpoint(..));
    let of_log: fn(&File) -> bool = |file| matches!(file, File::Segment(_));
    for engine in EngineKind::ALL.iter().copied() {
        for lost in [of_state, of_log] {
            let mut world = cut_off_without(engine, lost);
            match world.ask(LOSER, Call::Snapshot) {
                Answer::Snapshot(Err(etcd::Error::InDoubt)) => {}
                other => panic!("{engine:?}: {other:?}"),
            }
            let early = world.call(LOSER, serializable_get(LAST));
            world.run(Duration::from_secs(1));
            let answer = world.answer(early);
            assert!(answer.is_none(), "{engine:?}: {answer:?}");
            world.isolate(LOSER, false);
            world.run_until(PATIENCE, "it is whole", |world| {
                is_in_doubt(world) == Some(false)
            });
            match world.ask(LOSER, Call::Snapshot) {
                Answer::Snapshot(Ok(_)) => {}
                other => panic!("{engine:?}: {other:?}"),
            }
            for key in [KEY, LAST] {
                match world.ask(LOSER, serializable_get(key)) {
                    Answer::Etcd(Ok(etcd::Response::Range(response))) => {
                        assert_eq!(response.kvs.len(), 1, "{engine:?}");
                    }
                    other => panic!("{engine:?}: {other:?}"),
                }
            }
            // Its time may have been up before; but nobody was told that there is no such key.
            match world.answer(early) {
                None | Some(Answer::Etcd(Err(_))) => {}
                Some(Answer::Etcd(Ok(etcd::Response::Range(response)))) => {
                    assert_eq!(response.kvs.len(), 1, "{engine:?}");
                }
                other => panic!("{engine:?}: {other:?}"),
            }
        }
    }
}
