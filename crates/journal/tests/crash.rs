//! The power goes: with every subset of the sectors of a write, and at every request.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use base::{GroupId, Slot};
use quorate_journal::disk::Lane;
use quorate_journal::{Record, TornTail};
use support::checked::{Checked, Step};
use support::disk::{Crash, SimulatedDisk};
use support::{World, entry, hard_state, small_limits};

/// A batch of `blocks` blocks: one entry that fills them.
fn filling(slot: u64, epoch: u64, blocks: usize) -> Record {
    let length = blocks * 488 - 40 - 36;
    entry(1, slot, epoch, vec![epoch as u8; length])
}

/// A journal with two entries, and room in its segment.
fn small() -> World {
    let mut world = World::fresh();
    world.write([hard_state(1, "vote"), entry(1, 1, 1, "a")]);
    world.write([entry(1, 2, 1, "b")]);
    world
}

/// A journal whose segments have been used before, with two live entries and `room` blocks left
/// in its segment.
fn recycled(room: u64) -> World {
    let mut world = World::fresh();
    world.write([hard_state(1, "vote")]);
    for slot in 1..=60 {
        world.write([filling(slot, 1, 1 + slot as usize % 3)]);
        world.release(1, slot.saturating_sub(2));
        world.settle();
    }
    assert!(world.journal.metrics().segments_released > 5);
    let mut slot = 61;
    while 4096 - world.journal.metrics().bytes % 4096 != room * 512 {
        world.write([filling(slot, 1, 1)]);
        slot += 1;
    }
    world
}

fn last(world: &World) -> u64 {
    world.recovered.groups[&GroupId(1)].last.0
}

/// Writes a batch of `blocks` blocks to a copy of `world`, of which only the sectors in `mask`
/// reach the disk; recovers; and returns the journal, and whether the batch is in it.
fn torn(world: &World, slot: u64, blocks: usize, epoch: u64, mask: u32) -> (World, bool) {
    let mut journal = World::open(world.disk.clone(), small_limits());
    journal.settle();
    journal.begin([filling(slot, epoch, blocks)]);
    journal
        .disk
        .crash_with_sectors(|sector| mask >> sector & 1 == 1);
    let mut recovered = World::open(journal.disk, small_limits());
    recovered.settle();
    let survived = last(&recovered) == slot;
    assert!(survived || last(&recovered) == slot - 1);
    assert!(!survived || recovered.recovered.torn_tail.is_none());
    (recovered, survived)
}

/// Whatever is left of a batch, it is all or nothing; and the journal goes on.
fn every_subset(world: World, blocks: usize, sectors: usize) {
    let mut world = world.reopen();
    world.settle();
    let slot = last(&world) + 1;
    for mask in 0..1u32 << sectors {
        let (mut recovered, survived) = torn(&world, slot, blocks, 2, mask);
        assert_eq!(survived, mask + 1 == 1 << sectors, "{mask:b}");
        let slot = if survived { slot + 1 } else { slot };
        recovered.write([filling(slot, 3, 1)]);
        recovered.write([filling(slot + 1, 3, 2)]);
        let mut again = recovered.reopen();
        assert_eq!(again.recovered.torn_tail, None, "{mask:b}");
        assert_eq!(last(&again), slot + 1);
        let epochs: Vec<u64> = again
            .entries(1, slot - 1, slot + 1)
            .iter()
            .map(|entry| entry.epoch.0)
            .collect();
        assert_eq!(epochs, [if survived { 2 } else { 1 }, 3, 3], "{mask:b}");
    }
}

#[test]
fn every_subset_of_the_sectors_of_a_batch_is_all_or_nothing() {
    every_subset(small(), 4, 4);
    every_subset(small(), 5, 5);
}

#[test]
fn every_subset_of_the_sectors_of_a_batch_in_a_recycled_segment() {
    every_subset(recycled(4), 3, 3);
    every_subset(recycled(4), 4, 4);
}

/// The head of the segment and its first batch are one write.
#[test]
fn every_subset_of_the_sectors_of_a_head_and_its_batch() {
    every_subset(recycled(1), 4, 5);
    every_subset(recycled(4), 7, 8);
}

/// After a torn batch, another is torn at the same place, with the same number: no mixture of
/// the two is ever taken for either, or for damage.
#[test]
fn two_torn_batches_at_one_place_do_not_mix() {
    for world in [small(), recycled(4), recycled(1)] {
        let mut world = world.reopen();
        world.settle();
        let slot = last(&world) + 1;
        for first in 0..16 {
            let (once, survived) = torn(&world, slot, 4, 2, first);
            let slot = if survived { slot + 1 } else { slot };
            for second in 0..16 {
                for blocks in [2, 4] {
                    let (mut twice, survived) = torn(&once, slot, blocks, 3, second);
                    let end = if survived { slot } else { slot - 1 };
                    let entries = twice.entries(1, slot - 1, slot);
                    assert_eq!(entries.len() as u64, end + 2 - slot);
                }
            }
        }
    }
}

/// A process that dies leaves its last batch in the cache of the operating system, from where it
/// is read as if it were durable. If the power goes after that, it must be.
#[test]
fn a_batch_that_was_only_in_the_cache_is_made_durable() {
    let mut world = small();
    world.begin([filling(3, 2, 3)]);
    let mut random = base::Random::from_seed(0);
    loop {
        let mut disk = world.disk.clone();
        disk.crash(Crash::Process, &mut random);
        let recovered = World::open(disk, small_limits());
        if last(&recovered) == 3 {
            let mut disk = recovered.disk.clone();
            disk.crash(Crash::Power, &mut random);
            assert_eq!(last(&World::open(disk, small_limits())), 3);
            if random.chance(0.01) {
                break;
            }
        }
    }
}

#[test]
fn a_torn_tail_is_reported() {
    let world = small();
    let (recovered, _) = torn(&world, 3, 4, 2, 0b0101);
    let torn_tail = TornTail {
        segment: 1,
        offset: 1536,
        bytes: 1536,
    };
    assert_eq!(recovered.recovered.torn_tail, Some(torn_tail));
    let (recovered, _) = torn(&world, 3, 4, 2, 0);
    assert_eq!(recovered.recovered.torn_tail, None);
}

/// Fills, releases and recycles.
fn script() -> Vec<Step> {
    let round = |round: u8| {
        let length = 50 + 37 * u16::from(round % 9);
        [
            Step::Append {
                group: round % 2,
                choice: 0,
                length,
            },
            Step::Append {
                group: 1,
                choice: round,
                length,
            },
            Step::Flush,
            Step::Work {
                journal: round % 3,
                background: round % 2,
            },
            Step::Append {
                group: round % 3,
                choice: 12,
                length: 0,
            },
            Step::Release {
                group: round % 2,
                behind: 3,
            },
            Step::Flush,
            Step::Work {
                journal: 1,
                background: 1,
            },
        ]
    };
    (0..40u8).flat_map(round).collect()
}

/// The power goes after every number of requests that were carried out, in several ways, and
/// again while recovering.
#[test]
fn the_power_may_go_at_every_request() {
    let script = script();
    let mut whole = Checked::new();
    script.iter().for_each(|step| whole.step(step));
    let total = whole.world.disk.executed;
    assert!(total > 100 && whole.world.journal.metrics().segments_released > 3);
    for after in 0..total {
        for seed in 0..12 {
            let mut checked = Checked::new();
            for step in &script {
                if checked.world.disk.executed >= after {
                    break;
                }
                checked.step(step);
            }
            checked.step(&Step::Crash {
                seed: seed + 1000 * after,
                again: (seed % 3) as u8,
            });
            checked.step(&Step::Append {
                group: 1,
                choice: 0,
                length: 700,
            });
            checked.settle();
            checked.step(&Step::Crash { seed, again: 0 });
        }
    }
}

/// A segment may be written to again while its recycling is not yet on stable storage.
#[test]
fn recycling_survives_the_power_going_between_all_its_steps() {
    let mut world = World::fresh();
    world.write([hard_state(1, "vote"), entry(2, 1, 1, "x")]);
    for slot in 1..=12 {
        world.write([filling(slot, 1, 2)]);
    }
    let (mut step, mut finished) = (0, false);
    while !finished {
        for seed in 0..20 {
            let mut journal = World::open(world.disk.clone(), small_limits());
            journal.settle();
            journal.release(1, 11);
            journal.release(2, 1);
            let mut lanes = [Lane::Journal, Lane::Background];
            for count in 0..step {
                lanes.swap(0, 1);
                if !journal.step(lanes[0]) && !journal.step(lanes[1]) {
                    finished = count > 0;
                }
            }
            let mut disk: SimulatedDisk = journal.disk;
            disk.crash(Crash::Power, &mut base::Random::from_seed(seed));
            let mut after = World::open(disk, small_limits());
            let groups = &after.recovered.groups;
            assert_eq!(
                groups[&GroupId(1)].hard_state.as_deref(),
                Some(&b"vote"[..])
            );
            assert_eq!(groups[&GroupId(1)].last, Slot(12));
            assert_eq!(groups[&GroupId(2)].last, Slot(1));
            assert_eq!(after.entries(1, 12, 12).len(), 1);
            after.write([filling(13, 2, 4)]);
            assert_eq!(after.reopen().recovered.groups[&GroupId(1)].last, Slot(13));
        }
        step += 1;
    }
    assert!(step > 4, "{step}");
}
