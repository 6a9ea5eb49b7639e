//! Checkpoints: what is written is read back, what is damaged is found, and the bytes are those
//! that `docs/internals/state.md` lists.

use std::time::Duration;

use base::checksum::crc32c;
use base::{Incarnation, NodeId, Random};
use quorate_state::{
    CheckpointDamage, CheckpointError, CheckpointReader, CheckpointWriter, LEVEL_MAX, LeaseId,
    Limits, Origin, Revision, Space, State,
};

mod support;

use support::{finish_compaction, head, next_stamp, read, run, small_limits, write};

/// A small state with something of everything, in the middle of a compaction.
fn sample() -> State {
    let mut state = State::new(small_limits());
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("b", "5")] {
        run(&mut state, |transaction| {
            let lease = LeaseId(77);
            if transaction.lease(lease).is_none() {
                transaction.grant_lease(lease, Duration::from_secs(60));
            }
            transaction.put(Space::ETCD, key.as_bytes(), value.as_bytes(), lease.0);
        });
    }
    run(&mut state, |transaction| {
        transaction.delete(Space::ETCD, b"c");
        transaction.put(Space::ETCD, b"d", b"6", 0);
        transaction.set_row(Space::SYSTEM, b"name", b"sample");
    });
    state.begin_entry(&next_stamp(&state));
    state.admit(Origin {
        node: NodeId(1),
        incarnation: Incarnation(2),
        sequence: 3,
    });
    let mut transaction = state.transaction();
    transaction.compact(Revision(6));
    transaction.commit();
    drop(state.end_entry());
    assert!(state.compaction_pending());
    state
}

fn damage(bytes: &[u8]) -> CheckpointDamage {
    match read(bytes, small_limits(), bytes.len().max(1)) {
        Err(CheckpointError::Damaged(damage)) => damage,
        Err(newer) => panic!("{newer}"),
        Ok(_) => panic!("the damage was not found"),
    }
}

/// Where the blocks of a checkpoint begin.
fn block_starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    loop {
        let start = starts[starts.len() - 1];
        let length = length_at(bytes, start);
        let next = start + 12 + length as usize;
        if next == bytes.len() {
            return starts;
        }
        starts.push(next);
    }
}

fn length_at(bytes: &[u8], start: usize) -> u32 {
    u32::from_le_bytes(bytes[start + 4..start + 8].try_into().expect("four bytes"))
}

/// Makes a changed block look intact.
fn reseal(bytes: &mut [u8], start: usize) {
    let length = length_at(bytes, start);
    let end = start + 8 + length as usize;
    let checksum = crc32c(&bytes[start..end]);
    bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn an_empty_state_comes_back() {
    let state = State::new(small_limits());
    let restored = read(&write(state.snapshot(), small_limits()), small_limits(), 7).unwrap();
    assert_eq!(restored.digest(), state.digest());
}

#[test]
fn a_state_comes_back_in_the_middle_of_a_compaction_and_goes_on_alike() {
    let mut state = sample();
    let bytes = write(state.snapshot(), small_limits());
    for piece in [1, 2, 13, 100, bytes.len()] {
        let mut restored = read(&bytes, small_limits(), piece).unwrap();
        assert_eq!(restored.digest(), restored.reader().recompute_digest());
        assert_eq!(restored.digest(), state.digest());
        assert!(restored.compaction_pending());
        run(&mut restored, |_| {});
        finish_compaction(&mut restored);
        let mut original = read(&bytes, small_limits(), 50).unwrap();
        run(&mut original, |_| {});
        finish_compaction(&mut original);
        assert_eq!(restored.digest(), original.digest());
    }
    finish_compaction(&mut state);
    let mut restored = read(&bytes, small_limits(), 9).unwrap();
    finish_compaction(&mut restored);
    assert_eq!(
        write(restored.snapshot(), small_limits()),
        write(state.snapshot(), small_limits())
    );
}

#[test]
fn the_settings_of_the_group_are_kept_whatever_this_replica_would_begin_with() {
    let state = sample();
    let bytes = write(state.snapshot(), small_limits());
    let restored = read(&bytes, Limits::default(), 64).unwrap();
    assert_eq!(restored.reader().settings(), state.reader().settings());
    assert_eq!(restored.digest(), state.digest());
}

#[test]
fn blocks_have_about_their_nominal_length() {
    let mut state = State::new(Limits::default());
    run(&mut state, |transaction| {
        for number in 0..5000 {
            transaction.put(
                Space::ETCD,
                format!("key {number}").as_bytes(),
                &[1; 100],
                0,
            );
        }
        transaction.put(Space::ETCD, b"large", &vec![1; 1 << 20], 0);
    });
    let bytes = write(state.snapshot(), Limits::default());
    let starts = block_starts(&bytes);
    let lengths: Vec<usize> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let nominal = Limits::default().checkpoint_block_bytes;
    let regular = lengths
        .iter()
        .filter(|length| (nominal..nominal + 200).contains(length));
    assert!(regular.count() >= 8, "{lengths:?}");
    assert!(
        lengths.iter().any(|length| *length > 1 << 20),
        "a large value has a large block"
    );
    assert_eq!(
        read(&bytes, Limits::default(), 10_000).unwrap().digest(),
        state.digest()
    );
}

#[test]
fn every_changed_byte_is_found() {
    let bytes = write(sample().snapshot(), small_limits());
    let starts = block_starts(&bytes);
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[index] ^= 1 << bit;
            let damage = damage(&changed);
            let start = *starts.iter().rfind(|start| **start <= index).unwrap() as u64;
            // A length that has become too great may swallow the rest, but never looks back.
            assert!(damage.offset >= start, "byte {index}: {damage}");
            let is_length = (4..8).contains(&(index as u64 - start));
            assert!(
                damage.offset == start || is_length,
                "byte {index}: {damage}"
            );
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_found() {
    let bytes = write(sample().snapshot(), small_limits());
    for length in 0..bytes.len() {
        assert_eq!(damage(&bytes[..length]).what, "it ends before its footer");
    }
    for extra in [1, 8, 100] {
        let mut longer = bytes.clone();
        longer.extend(std::iter::repeat_n(0, extra));
        assert_eq!(damage(&longer).what, "something follows the footer");
    }
}

#[test]
fn missing_repeated_and_exchanged_blocks_are_found() {
    let bytes = write(sample().snapshot(), small_limits());
    let mut ends = block_starts(&bytes);
    ends.push(bytes.len());
    let blocks: Vec<&[u8]> = ends
        .windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect();
    assert!(blocks.len() >= 6, "the sample has several blocks");
    for index in 0..blocks.len() - 1 {
        let mut missing = blocks.clone();
        missing.remove(index);
        damage(&missing.concat());
        let mut repeated = blocks.clone();
        repeated.insert(index, blocks[index]);
        damage(&repeated.concat());
        let mut exchanged = blocks.clone();
        exchanged.swap(index, index + 1);
        damage(&exchanged.concat());
    }
}

#[test]
fn newer_formats_and_levels_have_their_own_error() {
    let bytes = write(sample().snapshot(), small_limits());
    for (at, format, level) in [(16, 2, LEVEL_MAX), (20, 1, LEVEL_MAX + 1)] {
        let mut newer = bytes.clone();
        newer[at] = 2;
        reseal(&mut newer, 0);
        let error = read(&newer, small_limits(), 100).unwrap_err();
        assert_eq!(error, CheckpointError::Newer { format, level });
    }
}

#[test]
fn an_error_stays() {
    let mut bytes = write(sample().snapshot(), small_limits());
    bytes[30] ^= 1;
    let mut reader = CheckpointReader::new(small_limits());
    let error = reader.feed(&bytes).unwrap_err();
    assert_eq!(reader.feed(&[]).unwrap_err(), error);
    assert_eq!(reader.finish().unwrap_err(), error);
}

#[test]
fn garbage_never_panics_and_is_never_believed() {
    let mut random = Random::from_seed(2);
    for _ in 0..2000 {
        let length = random.below(400) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        assert!(read(&bytes, small_limits(), 50).is_err());
    }
}

#[test]
#[should_panic(expected = "between entries")]
fn no_checkpoint_within_an_entry() {
    let mut state = State::new(small_limits());
    state.begin_entry(&next_stamp(&state));
    let _ = CheckpointWriter::new(state.snapshot(), head(), small_limits());
}

/// The golden file. If this fails, files of released versions can no longer be read: keep the old
/// format readable and give the new one a new version.
#[test]
fn the_bytes_are_those_that_were_agreed_on() {
    let bytes = write(sample().snapshot(), small_limits());
    let golden = include_str!("golden/checkpoint-format-1.hex");
    let digits: String = golden.split_whitespace().collect();
    let expected: Vec<u8> = (0..digits.len() / 2)
        .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).unwrap())
        .collect();
    let first = bytes
        .iter()
        .zip(&expected)
        .position(|(now, then)| now != then);
    assert!(
        bytes == expected,
        "differs at {first:?}; now it is\n{}",
        in_hexadecimal(&bytes)
    );
    let restored = read(&expected, small_limits(), 64).unwrap();
    assert_eq!(restored.digest(), sample().digest());
}

fn in_hexadecimal(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    lines.join("\n")
}
