//! A log that takes the place of a damaged one is let go of like any other. What was set aside
//! stays as it is until it is forgotten, and is never taken for a part of the log.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::collections::BTreeMap;

use base::{GroupId, Random, Slot};
use quorate_journal::Done;
use quorate_journal::disk::{File, Lane};
use support::disk::{Content, Crash, SimulatedDisk};
use support::{World, entry, hard_state, recover, small_limits};

/// Files with what stands in them.
type Contents = BTreeMap<File, Content>;

/// Five segments, the second of which is damaged, and a sixth that is prepared.
fn damaged() -> SimulatedDisk {
    let mut world = World::fresh();
    for slot in 1..=14 {
        world.write([entry(1, slot, 1, vec![1; 700])]);
    }
    world
        .disk
        .tamper(File::Segment(2), |bytes| bytes[1700] ^= 4);
    refusal(&world.disk);
    world.disk
}

fn refusal(disk: &SimulatedDisk) -> String {
    let mut tried = disk.clone();
    let error = recover(&mut tried, small_limits()).map(|_| ()).unwrap_err();
    assert_eq!(tried.content, disk.content);
    error.to_string()
}

/// All that stands in segments.
fn segments(disk: &SimulatedDisk) -> Contents {
    let mut content = disk.content.clone();
    content.retain(|file, _| matches!(file, File::Segment(_)));
    content
}

/// Whether these files are there as they were.
fn are_untouched(disk: &SimulatedDisk, before: &Contents) -> bool {
    let mut before = before.iter();
    before.all(|(file, content)| disk.content.get(file) == Some(content))
}

/// Writes entries up to `last`, of which all but the last two are released as they come: three
/// fill a segment.
fn fill(world: &mut World, last: u64) {
    world.write([hard_state(1, "vote")]);
    for slot in 1..=last {
        world.write([entry(1, slot, 2, vec![2; 700])]);
        world.release(1, slot.saturating_sub(2));
        world.settle();
    }
}

fn last(world: &World) -> Slot {
    let group = &world.recovered.groups[&GroupId(1)];
    assert_eq!(group.hard_state.as_deref(), Some(&b"vote"[..]));
    group.last
}

fn forget(world: &mut World) {
    let mut out = Vec::new();
    world.journal.forget_set_aside(&mut out);
    world.disk.submit(&mut out);
}

#[test]
fn it_is_let_go_of_while_another_one_is_set_aside() {
    let disk = damaged();
    let aside = segments(&disk);
    let mut world = World::open_anew(disk, small_limits());
    fill(&mut world, 60);
    let metrics = world.journal.metrics();
    assert!(
        metrics.segments < 4 && metrics.segments_released > 10,
        "{metrics:?}"
    );
    for _ in 0..2 {
        world = world.reopen();
        assert!(world.journal.has_set_aside());
        assert!(are_untouched(&world.disk, &aside));
        assert_eq!(last(&world), Slot(60));
        assert_eq!(world.entries(1, 59, 60).len(), 2);
    }
    world.write([entry(1, 61, 2, "one more")]);
    forget(&mut world);
    let world = world.reopen();
    assert!(!world.journal.has_set_aside());
    assert_eq!(last(&world), Slot(61));
    let is_there = |file: &File| world.disk.content.contains_key(file);
    assert!(!aside.keys().any(is_there), "it is forgotten");
}

/// Writes and releases; in the end, forgets what was set aside. No more requests are carried out
/// once there have been so many. Returns whether it came to the end.
fn work(world: &mut World, until: u64) -> bool {
    let carry_out = |world: &mut World| {
        while world.disk.executed < until
            && (world.step(Lane::Background) || world.step(Lane::Journal))
        {}
        world.disk.executed < until
    };
    for slot in 1..=20 {
        world.begin([hard_state(1, "vote"), entry(1, slot, 2, vec![2; 700])]);
        world.release(1, slot.saturating_sub(2));
        if !carry_out(world) {
            return false;
        }
    }
    forget(world);
    carry_out(world);
    true
}

#[test]
fn the_power_may_go_at_every_request() {
    let disk = damaged();
    let aside = segments(&disk);
    let begun = || World::open_anew(disk.clone(), small_limits());
    let first = begun().disk.executed;
    let mut whole = begun();
    assert!(work(&mut whole, u64::MAX), "it comes to its end");
    assert!(whole.journal.metrics().segments_released > 2);
    assert!(!whole.journal.has_set_aside());
    let (mut refused, mut kept, mut gone) = (0, 0, 0);
    for until in first..=whole.disk.executed {
        for seed in 0..6 {
            let mut world = begun();
            let forgets = work(&mut world, until);
            let durable = world.done.iter().filter_map(|done| match done {
                Done::Durable { mark } => Some(*mark),
                _ => None,
            });
            let durable = durable.max().unwrap_or(0);
            let mut disk = world.disk;
            disk.crash(Crash::Power, &mut Random::from_seed(seed));
            assert!(forgets || are_untouched(&disk, &aside), "{until}");
            if recover(&mut disk.clone(), small_limits()).is_err() {
                assert_eq!(durable, 0, "until then, the damage is seen again");
                let mut world = World::open_anew(disk, small_limits());
                fill(&mut world, 20);
                assert_eq!(last(&world.reopen()), Slot(20));
                refused += 1;
                continue;
            }
            let mut world = World::open(disk, small_limits());
            assert!(forgets || world.journal.has_set_aside(), "{until}");
            let end = last(&world);
            assert!(end.0 >= durable, "{end} is not {durable}");
            world.write([entry(1, end.0 + 1, 3, "one more")]);
            forget(&mut world);
            let world = world.reopen();
            assert!(!world.journal.has_set_aside());
            assert_eq!(last(&world), end.next());
            kept += u32::from(!forgets);
            gone += u32::from(forgets);
        }
    }
    assert!(
        refused > 0 && kept > 0 && gone > 0,
        "{refused} {kept} {gone}"
    );
}

#[test]
fn a_second_damaged_log_is_set_aside_with_the_first() {
    let mut world = World::open_anew(damaged(), small_limits());
    fill(&mut world, 30);
    let mut disk = world.disk;
    for file in segments(&disk).into_keys() {
        disk.tamper(file, |bytes| bytes[700] ^= 4);
    }
    refusal(&disk);
    let aside = segments(&disk);
    let mut world = World::open_anew(disk, small_limits());
    fill(&mut world, 60);
    assert!(world.journal.metrics().segments_released > 10);
    let mut world = world.reopen();
    assert_eq!(last(&world), Slot(60));
    assert!(are_untouched(&world.disk, &aside));
    world.write([entry(1, 61, 2, "one more")]);
    forget(&mut world);
    let world = world.reopen();
    assert!(!world.journal.has_set_aside());
    assert_eq!(last(&world), Slot(61));
}

/// The log before it was damaged, and would be looked at again if nothing had taken its place.
#[test]
fn one_whose_beginning_may_not_be_read_is_not_passed_by() {
    let mut world = World::open_anew(damaged(), small_limits());
    fill(&mut world, 2);
    world.disk.locked = Some(File::Segment(7));
    let mut disk = world.disk.clone();
    let error = recover(&mut disk, small_limits()).map(|_| ()).unwrap_err();
    assert!(!error.is_damage(), "{error}");
    assert!(
        error.to_string().contains("0000000000000007.segment"),
        "{error}"
    );
    world.disk.locked = None;
    assert_eq!(last(&world.reopen()), Slot(2));
}

/// A segment that the log needs is not missed less because a gap may stand before the log.
#[test]
fn what_is_missing_of_it_is_damage() {
    for number in 7..=10 {
        let mut world = World::open_anew(damaged(), small_limits());
        for slot in 1..=14 {
            world.write([entry(1, slot, 2, vec![2; 700])]);
        }
        world.disk.content.remove(&File::Segment(number)).unwrap();
        let error = refusal(&world.disk);
        let file = format!("journal/{number:016x}.segment is missing");
        assert!(error.starts_with(&file), "{error}");
    }
}
