//! The disk threads on a real folder.

use std::sync::Mutex;
use std::sync::mpsc;

use base::{GroupId, Slot};
use bytes::Bytes;
use journal::disk::{DiskError, File, RequestId};

use super::*;
use crate::folder::{Folder, path_of};

struct Bench {
    temporary: tempfile::TempDir,
    disks: Disks,
    completions: mpsc::Receiver<Vec<Completion>>,
    metrics: Metrics,
    next: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(DiskLimits {
            zero_chunk_bytes: 4096,
            zero_sync_bytes: 8192,
            ..Default::default()
        })
    }

    fn with(limits: DiskLimits) -> Bench {
        let temporary = tempfile::tempdir().unwrap();
        Folder::open(temporary.path()).unwrap();
        let (sender, completions) = mpsc::channel();
        let sender = Mutex::new(sender);
        let sink: Sink = Arc::new(move |group: Completed| {
            let _ = sender.lock().unwrap().send(group.completions);
        });
        let metrics = Metrics::default();
        let disks = Disks::start(temporary.path().into(), &limits, &metrics, sink).unwrap();
        Bench {
            temporary,
            disks,
            completions,
            metrics,
            next: 0,
        }
    }

    /// Submits all operations at once and returns how each ended, by its position.
    fn all(&mut self, operations: &[(Lane, Operation)]) -> Vec<Result<Bytes, DiskError>> {
        let first = self.next;
        let mut requests = Vec::new();
        for (lane, operation) in operations {
            let request = Request {
                id: RequestId(self.next),
                lane: *lane,
                operation: operation.clone(),
            };
            requests.push(request.into());
            self.next += 1;
        }
        self.disks.submit(&mut requests).unwrap();
        let mut results = vec![None; operations.len()];
        let mut last = [None, None];
        let mut missing = operations.len();
        while missing > 0 {
            let group = self
                .completions
                .recv_timeout(Duration::from_secs(10))
                .unwrap();
            for completion in group {
                let index = (completion.id.0 - first) as usize;
                let lane = usize::from(operations[index].0 == Lane::Background);
                assert!(
                    last[lane] < Some(completion.id),
                    "completed in the order of the lane"
                );
                last[lane] = Some(completion.id);
                assert_eq!(results[index].replace(completion.result), None);
                missing -= 1;
            }
        }
        results.into_iter().map(Option::unwrap).collect()
    }

    fn one(&mut self, lane: Lane, operation: Operation) -> Result<Bytes, DiskError> {
        self.all(&[(lane, operation)]).remove(0)
    }

    fn contents(&self, file: File) -> Vec<u8> {
        std::fs::read(self.temporary.path().join(path_of(file))).unwrap()
    }
}

fn write(file: File, offset: u64, text: &'static str, sync: bool) -> Operation {
    let data = text.as_bytes().chunks(2).map(Bytes::from_static).collect();
    Operation::Write {
        file,
        offset,
        data,
        sync,
    }
}

fn read(file: File, offset: u64, length: u64) -> Operation {
    Operation::Read {
        file,
        offset,
        length,
    }
}

const LOG: File = File::Segment(1);

#[test]
fn writes_are_carried_out_in_order_and_read_back() {
    let mut bench = Bench::new();
    let results = bench.all(&[
        (Lane::Journal, write(LOG, 0, "hello ", true)),
        (Lane::Journal, write(LOG, 6, "world", true)),
        (Lane::Journal, write(LOG, 0, "J", false)),
        (Lane::Journal, write(LOG, 4, "y", true)),
        (Lane::Journal, Operation::Sync { file: LOG }),
        (Lane::Journal, read(LOG, 1, 4)),
        (Lane::Journal, read(LOG, 6, 1 << 60)),
        (Lane::Journal, read(LOG, 100, 5)),
    ]);
    let texts: Vec<Bytes> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(texts[5], "elly");
    assert_eq!(texts[6], "world");
    assert_eq!(texts[7], "");
    assert_eq!(bench.contents(LOG), b"Jelly world");
}

#[test]
fn blocks_and_other_lengths_end_up_in_the_same_file() {
    for direct_bytes in [0, 1024, 1 << 20] {
        let mut bench = Bench::with(DiskLimits {
            direct_bytes,
            ..Default::default()
        });
        let file = File::Segment(1);
        let length = 16 << 10;
        let created = bench.one(Lane::Journal, Operation::CreateZeroed { file, length });
        assert_eq!(created, Ok(Bytes::new()));
        let mut expected = vec![0; length as usize];
        // Whole blocks, blocks in odd pieces, and what is no block, within the same pages.
        let writes: [(u64, &[usize]); 6] = [
            (0, &[512]),
            (512, &[1000, 24]),
            (100, &[7]),
            (1536, &[512, 4096, 300, 212]),
            (1024, &[512]),
            (3584, &[513]),
        ];
        for (number, (offset, lengths)) in (1u8..).zip(writes) {
            let data: Vec<Bytes> = lengths
                .iter()
                .map(|length| Bytes::from(vec![number; *length]))
                .collect();
            let total: usize = lengths.iter().sum();
            expected[offset as usize..][..total].fill(number);
            let write = Operation::Write {
                file,
                offset,
                data,
                sync: number.is_multiple_of(2),
            };
            assert_eq!(bench.one(Lane::Journal, write), Ok(Bytes::new()));
            assert_eq!(
                bench.one(Lane::Journal, read(file, 0, length)).unwrap(),
                expected
            );
        }
        assert_eq!(bench.contents(file), expected);
    }
}

#[test]
fn what_has_queued_up_for_one_file_shares_one_sync() {
    let mut bench = Bench::new();
    let writes: Vec<(Lane, Operation)> = (0..50)
        .map(|i| (Lane::Journal, write(LOG, i * 2, "ab", true)))
        .collect();
    assert!(bench.all(&writes).iter().all(Result::is_ok));
    assert_eq!(bench.contents(LOG), "ab".repeat(50).as_bytes());
    let mut text = String::new();
    let mut registry = prometheus_client::registry::Registry::default();
    bench.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains("etcd_disk_wal_fsync_duration_seconds_count 1\n"),
        "{text}"
    );
    assert!(
        text.contains("quorate_disk_journal_group_requests_sum 50.0\n"),
        "{text}"
    );
}

#[test]
fn a_group_has_a_bound() {
    let mut bench = Bench::with(DiskLimits {
        group_bytes: 4,
        ..Default::default()
    });
    let writes: Vec<(Lane, Operation)> = (0..50)
        .map(|i| (Lane::Journal, write(LOG, i * 2, "ab", true)))
        .collect();
    assert!(bench.all(&writes).iter().all(Result::is_ok));
    assert_eq!(bench.contents(LOG), "ab".repeat(50).as_bytes());
}

#[test]
fn more_pieces_than_one_call_takes_are_all_written() {
    let mut bench = Bench::new();
    let data: Vec<Bytes> = (0..3000u32)
        .map(|i| Bytes::from(i.to_le_bytes().to_vec()))
        .collect();
    let expected: Vec<u8> = data.concat();
    let operation = Operation::Write {
        file: LOG,
        offset: 3,
        data,
        sync: true,
    };
    bench.one(Lane::Journal, operation).unwrap();
    assert_eq!(bench.contents(LOG)[3..], expected);
}

#[test]
fn zeros_are_written_over_what_was_there() {
    let mut bench = Bench::new();
    let spare = File::SpareSegment(4);
    bench
        .one(Lane::Background, write(spare, 0, "old contents", true))
        .unwrap();
    let length = 3 * 8192 + 17;
    bench
        .one(
            Lane::Background,
            Operation::CreateZeroed {
                file: spare,
                length,
            },
        )
        .unwrap();
    assert_eq!(bench.contents(spare), vec![0; length as usize]);
}

#[test]
fn a_handle_follows_its_file_through_renames() {
    let mut bench = Bench::new();
    let (spare, first, second) = (File::SpareSegment(1), File::Segment(1), File::Segment(2));
    let results = bench.all(&[
        (
            Lane::Background,
            Operation::CreateZeroed {
                file: spare,
                length: 4,
            },
        ),
        (Lane::Background, write(spare, 0, "one", true)),
        (
            Lane::Background,
            Operation::Rename {
                from: spare,
                to: first,
            },
        ),
        // The same name again is another file.
        (Lane::Background, write(spare, 0, "two", true)),
        (Lane::Background, write(first, 3, "!", true)),
        (
            Lane::Background,
            Operation::Rename {
                from: spare,
                to: second,
            },
        ),
        (Lane::Background, write(second, 3, "?", true)),
        (Lane::Background, read(spare, 0, 9)),
    ]);
    assert!(results[..7].iter().all(Result::is_ok), "{results:?}");
    assert_eq!(results[7], Err(DiskError::NotFound));
    assert_eq!(bench.contents(first), b"one!");
    assert_eq!(bench.contents(second), b"two?");
}

#[test]
fn a_rename_replaces_and_a_delete_may_find_nothing() {
    let mut bench = Bench::new();
    let (partial, whole) = (
        File::PartialCheckpoint(GroupId(7), Slot(5)),
        File::Checkpoint(GroupId(7), Slot(5)),
    );
    let results = bench.all(&[
        (Lane::Background, write(whole, 0, "stale and longer", true)),
        (Lane::Background, write(partial, 0, "fresh", true)),
        (
            Lane::Background,
            Operation::Rename {
                from: partial,
                to: whole,
            },
        ),
        (Lane::Background, read(whole, 0, 99)),
        (Lane::Background, Operation::Delete { file: partial }),
        (Lane::Background, Operation::Delete { file: whole }),
        (Lane::Background, read(whole, 0, 99)),
        (
            Lane::Background,
            Operation::Rename {
                from: partial,
                to: whole,
            },
        ),
    ]);
    assert_eq!(results[3], Ok(Bytes::from_static(b"fresh")));
    assert_eq!(results[4], Ok(Bytes::new()));
    assert_eq!(results[5], Ok(Bytes::new()));
    assert_eq!(results[6], Err(DiskError::NotFound));
    assert_eq!(results[7], Err(DiskError::NotFound));
}

#[test]
fn a_failed_write_fails_its_request_and_the_thread_goes_on() {
    let mut bench = Bench::new();
    std::fs::create_dir(bench.temporary.path().join(path_of(LOG))).unwrap();
    let results = bench.all(&[
        (Lane::Journal, write(LOG, 0, "x", true)),
        (Lane::Journal, write(File::Segment(2), 0, "y", true)),
        (
            Lane::Journal,
            Operation::Sync {
                file: File::Segment(3),
            },
        ),
    ]);
    assert!(
        matches!(results[0], Err(DiskError::Inaccessible(_))),
        "{results:?}"
    );
    assert_eq!(results[1], Ok(Bytes::new()));
    assert_eq!(results[2], Err(DiskError::NotFound));
}

#[test]
fn a_failed_write_fails_every_sync_of_its_file_until_it_is_made_anew() {
    let mut bench = Bench::new();
    let path = bench.temporary.path().join(path_of(LOG));
    // A write to a folder's name fails; afterwards, nothing stands in the way of the others.
    std::fs::create_dir(&path).unwrap();
    let failed = bench.one(Lane::Journal, write(LOG, 0, "lost", false));
    assert!(failed.is_err(), "{failed:?}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    let results = bench.all(&[
        (Lane::Journal, Operation::Sync { file: LOG }),
        (Lane::Journal, write(LOG, 4, "after", true)),
        (Lane::Journal, Operation::Sync { file: LOG }),
    ]);
    assert!(results.iter().all(Result::is_err), "{results:?}");
    let anew = Operation::CreateZeroed {
        file: LOG,
        length: 9,
    };
    let results = bench.all(&[
        (Lane::Journal, anew),
        (Lane::Journal, write(LOG, 0, "new", true)),
        (Lane::Journal, Operation::Sync { file: LOG }),
    ]);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[test]
fn a_file_that_was_written_stays_open_until_it_is_synced() {
    let limits = DiskLimits {
        open_files: 2,
        ..Default::default()
    };
    let temporary = tempfile::tempdir().unwrap();
    Folder::open(temporary.path()).unwrap();
    for number in 0..9 {
        std::fs::write(temporary.path().join(path_of(File::Segment(number))), "").unwrap();
    }
    let files = files::Files::new(temporary.path().into(), limits);
    let piece = Bytes::from_static(b"x");
    files.write(LOG, 0, [&piece].into_iter()).unwrap();
    let touch = |number| files.carry_out(read(File::Segment(number), 0, 1)).unwrap();
    (2..9).for_each(|number| drop(touch(number)));
    assert!(files.is_open(LOG));
    files.sync(LOG).unwrap();
    (2..9).for_each(|number| drop(touch(number)));
    assert!(!files.is_open(LOG));
}

#[test]
fn more_files_than_are_kept_open_can_be_used() {
    let mut bench = Bench::with(DiskLimits {
        open_files: 2,
        ..Default::default()
    });
    for round in 0..2 {
        for number in 0..9 {
            bench
                .one(
                    Lane::Journal,
                    write(File::Segment(number), round, "z", false),
                )
                .unwrap();
        }
    }
    for number in 0..9 {
        bench
            .one(
                Lane::Journal,
                Operation::Sync {
                    file: File::Segment(number),
                },
            )
            .unwrap();
        assert_eq!(bench.contents(File::Segment(number)), b"zz");
    }
}

#[test]
fn other_jobs_run_in_their_turn_and_stopping_finishes_what_was_given() {
    let mut bench = Bench::new();
    let (sender, receiver) = mpsc::channel();
    let path = bench.temporary.path().join(path_of(LOG));
    let request = Request {
        id: RequestId(0),
        lane: Lane::Journal,
        operation: write(LOG, 0, "before", true),
    };
    let mut requests = vec![request.into()];
    bench.disks.submit(&mut requests).unwrap();
    let job = move || sender.send(std::fs::read(path).unwrap()).unwrap();
    bench.disks.run(Box::new(job)).unwrap();
    assert_eq!(
        receiver.recv_timeout(Duration::from_secs(10)).unwrap(),
        b"before"
    );
    bench.next = 1;
    bench.disks.stop(Duration::from_secs(10));
}

#[test]
fn stopping_does_not_wait_for_a_disk_that_hangs() {
    let bench = Bench::new();
    let (release, hangs) = mpsc::channel::<()>();
    let (done, ended) = mpsc::channel();
    let hang = move || drop((hangs.recv(), done));
    bench.disks.run(Box::new(hang)).unwrap();
    let started = Instant::now();
    bench.disks.stop(Duration::from_millis(100));
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert_eq!(ended.try_recv(), Err::<(), _>(mpsc::TryRecvError::Empty));
    drop(release);
    ended.recv_timeout(Duration::from_secs(10)).unwrap_err();
}

#[test]
fn what_is_to_be_done_then_is_done_after_the_sync_and_before_the_completion_or_never() {
    let bench = Bench::new();
    let (done, order) = mpsc::channel();
    let errand = |number: u64, file| {
        let path = bench.temporary.path().join(path_of(file));
        let done = done.clone();
        let then = move || done.send((number, std::fs::read(path).unwrap())).unwrap();
        Errand {
            request: Request {
                id: RequestId(number),
                lane: Lane::Journal,
                operation: write(file, number, "x", true),
            },
            then: Some(Box::new(then)),
        }
    };
    let hindered = File::Segment(2);
    std::fs::create_dir(bench.temporary.path().join(path_of(hindered))).unwrap();
    let mut errands = vec![errand(0, LOG), errand(1, LOG), errand(2, hindered)];
    errands.push(errand(2, LOG));
    bench.disks.submit(&mut errands).unwrap();
    drop(errands);
    let mut results = Vec::new();
    while results.len() < 4 {
        let group = bench.completions.recv_timeout(Duration::from_secs(10));
        for completion in group.unwrap() {
            if completion.result.is_ok() {
                let (number, contents) = order.try_recv().expect("it was done before");
                assert_eq!(number, completion.id.0);
                assert!(contents.len() as u64 > number, "it was written before");
            }
            results.push(completion.result.is_ok());
        }
    }
    assert_eq!(results, [true, true, false, true]);
    assert!(order.try_recv().is_err(), "what failed does nothing");
}
