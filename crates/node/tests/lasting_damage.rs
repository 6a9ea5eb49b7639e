//! Damage that cannot be made up for yet, or not with what was there: nothing grows or is repeated
//! meanwhile without end.

use std::time::Duration;

use base::{GroupId, Slot};
use bytes::Bytes;
use consensus::EngineKind;
use journal::disk::File;
use quorate_node::Config;

mod support;

use support::keyspaces::{create, must_put};
use support::{World, config};

/// Longer than any election and repair here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Three nodes with these settings.
fn world(seed: u64, engine: EngineKind, set: fn(&mut Config)) -> World {
    let mut configs: Vec<Config> = (0..3).map(|each| config(each, 3)).collect();
    for config in &mut configs {
        config.engine = Some(engine);
        config.limits.checkpoint_log_bytes = 16 << 10;
        config.limits.journal.segment_bytes = 32 << 10;
        config.limits.journal.batch_bytes_max = 8 << 10;
        set(config);
    }
    let mut world = World::new(seed, configs);
    (0..3).for_each(|host| world.start(host));
    world.wait_for_leader();
    world
}

fn fill(world: &mut World, host: usize, keys: usize, bytes: usize) {
    for key in 0..keys {
        let value = "v".repeat(bytes);
        must_put(world, host, "default", &format!("key{key}"), &value);
    }
}

/// How often a node has said something.
fn said(world: &World, host: usize, what: &str) -> usize {
    let notes = world.notes.iter().filter(|(by, _)| *by == host);
    notes
        .filter(|(_, note)| format!("{note:?}").contains(what))
        .count()
}

/// Its journal is damaged, and one keyspace finds nobody who could make up for that. The others go
/// on, for as long as that takes, with a log that is let go of as ever.
#[test]
fn the_log_is_let_go_of_while_one_keyspace_stays_in_doubt() {
    let pods = GroupId(1);
    for engine in EngineKind::ALL.iter().copied() {
        let mut world = world(21, engine, |_| {});
        create(&mut world, "pods", 3, engine);
        world.run(Duration::from_secs(1));
        must_put(&mut world, 0, "pods", "key", "value");
        world.kill(1);
        let mut aside: Vec<(File, Bytes)> = Vec::new();
        for (file, _) in world.disk_of(1).list() {
            if matches!(file, File::Segment(_)) {
                world.disk_of(1).flip(file, 700);
                aside.push((file, world.disk_of(1).read(file)));
            }
        }
        world.deaf.extend((0..3).map(|host| (host, pods)));
        let is_in_doubt = |world: &World, group: GroupId| {
            let running = world.is_running(1).then(|| world.node(1).running());
            let group = running.flatten().and_then(|running| running.group(group));
            group.map(|group| group.is_in_doubt())
        };
        let only_pods = |world: &World| {
            is_in_doubt(world, GroupId(0)) == Some(false)
                && is_in_doubt(world, pods) == Some(true)
                && world.identity_of(1).is_some_and(|each| !each.is_doubtful)
        };
        let released = |world: &World| world.node(1).metrics().journal.segments_released;
        world.start(1);
        world.run_until(PATIENCE, "only the keyspace is in doubt", only_pods);
        fill(&mut world, 0, 800, 1000);
        world.run_until(PATIENCE, "the new log is let go of", |world| {
            released(world) > 3
        });
        world.kill(1);
        world.start(1);
        world.run_until(PATIENCE, "it comes back with the new log", only_pods);
        assert_eq!(said(&world, 1, "JournalLost"), 1, "{engine}");
        for (file, before) in &aside {
            let now = world.disk_of(1).read(*file);
            assert!(now == *before, "{engine}: {file:?} is kept as it was");
        }
        world.deaf.clear();
        world.run_until(PATIENCE, "nothing is in doubt", |world| {
            is_in_doubt(world, GroupId(0)) == Some(false) && is_in_doubt(world, pods) == Some(false)
        });
        world.run(Duration::from_secs(2));
        let left = world.disk_of(1).list();
        let is_left = |file: &File| left.iter().any(|(each, _)| each == file);
        assert!(
            !aside.iter().any(|(file, _)| is_left(file)),
            "{engine}: what was set aside is forgotten"
        );
    }
}

/// What is wrong with a checkpoint.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Gone,
    Short,
    Changed,
}

/// Two are left: one with all that was chosen, whose newest checkpoint is damaged, and one that
/// needs it. Nobody looks for damage, and no log grows; so that another checkpoint is written only
/// because it is needed.
#[test]
fn a_damaged_checkpoint_that_a_peer_needs_is_replaced() {
    let applied = |world: &World, host: usize| {
        let running = world.is_running(host).then(|| world.node(host).running());
        running.flatten().map(|running| running.replica().applied())
    };
    let kinds = [Wrong::Gone, Wrong::Short, Wrong::Changed];
    let all = EngineKind::ALL.iter().copied();
    for (engine, wrong) in all.flat_map(|engine| kinds.map(|wrong| (engine, wrong))) {
        let mut world = world(22, engine, |config| {
            let limits = &mut config.limits;
            limits.scrub.bytes_per_second = 0;
            limits.consensus.piece_bytes = 8 << 10;
            // Another one takes seconds.
            limits.checkpoint_chunk_bytes = 4 << 10;
            limits.state.checkpoint_block_bytes = 4 << 10;
            limits.checkpoint_bytes_per_second = 64 << 10;
        });
        let full = world.wait_for_leader();
        let (stale, other) = ((full + 1) % 3, (full + 2) % 3);
        fill(&mut world, full, 3, 300);
        world.kill(stale);
        fill(&mut world, full, 400, 300);
        world.run(Duration::from_secs(10));
        world.kill(other);
        let mut files = world.disk_of(full).list();
        files.retain(|(file, _)| matches!(file, File::Checkpoint(GroupId(0), _)));
        assert_eq!(files.len(), 2, "{engine}");
        let (newest, length) = files[1];
        let half = length as usize / 2;
        let disk = world.disk_of(full);
        match wrong {
            Wrong::Gone => disk.remove(newest),
            Wrong::Short => {
                let whole = disk.read(newest);
                disk.replace(newest, whole[..half].to_vec());
            }
            Wrong::Changed => disk.flip(newest, half),
        }
        let wanted = applied(&world, full);
        assert!(wanted > Some(Slot(400)), "{engine}");
        world.start(stale);
        world.run_until(PATIENCE, "it has all that was chosen", |world| {
            applied(world, stale) >= wanted
        });
        let found = world.node(full).metrics().damage_found;
        assert_eq!(found, 1, "{engine}, {wrong:?}");
        let offers = said(&world, full, "SendingSnapshot");
        assert!(
            (1..50).contains(&offers),
            "{engine}, {wrong:?}: {offers} offers"
        );
        world.start(other);
        world.run_until(PATIENCE, "all have it", |world| {
            applied(world, other) >= wanted
        });
        fill(&mut world, stale, 3, 300);
    }
}
