//! Which requests share a sync: consecutive writes and syncs of one file.
//!
//! Delaying a sync past writes that were asked for later is always allowed, since a sync promises
//! that what was written *before* is durable and says nothing about what came after. What is not
//! allowed is to complete a request before its sync, or to change the order of writes.
//!
//! A write that fails leaves a hole that later writes and syncs would hide: from then on, all of
//! them fail, until the file is made anew.

use bytes::Bytes;
use journal::disk::{Completion, DiskError, File, Operation, RequestId};

use super::files::Files;
use super::{Completed, Errand, Then};

/// One member of a group.
struct Part {
    id: RequestId,
    /// The offset and pieces of a write; `None` for a mere sync.
    write: Option<(u64, Vec<Bytes>)>,
    sync: bool,
    then: Option<Then>,
}

/// Writes and syncs of one file, in the order they were asked for.
pub(super) struct Group {
    file: File,
    parts: Vec<Part>,
    bytes: usize,
}

impl Group {
    /// # Panics
    /// If `first` is neither a write nor a sync.
    pub(super) fn new(first: Errand) -> Group {
        let file =
            file_of(&first.request.operation).expect("a group begins with a write or a sync");
        let mut group = Group {
            file,
            parts: Vec::new(),
            bytes: 0,
        };
        assert!(
            group.push(first).is_ok(),
            "a group takes a request of its own file"
        );
        group
    }

    /// Takes a request in, or gives it back if it does not belong here.
    pub(super) fn push(&mut self, errand: Errand) -> Result<(), Errand> {
        if file_of(&errand.request.operation) != Some(self.file) {
            return Err(errand);
        }
        let Errand { request, then } = errand;
        let (write, sync) = match request.operation {
            Operation::Write {
                offset, data, sync, ..
            } => {
                self.bytes += data.iter().map(Bytes::len).sum::<usize>();
                (Some((offset, data)), sync)
            }
            _ => (None, true),
        };
        self.parts.push(Part {
            id: request.id,
            write,
            sync,
            then,
        });
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn wants_sync(&self) -> bool {
        self.parts.iter().any(|part| part.sync)
    }

    /// Writes everything, syncs once if anybody asked for it, does what was to be done then, and
    /// says how each request ended.
    pub(super) fn carry_out(mut self, files: &Files) -> Completed {
        let mut results: Vec<Result<(), DiskError>> = Vec::with_capacity(self.parts.len());
        let mut start = 0;
        while start < self.parts.len() {
            let run = self.run_from(start);
            let result = match &self.parts[start].write {
                Some((offset, _)) => {
                    let writes = self.parts[start..run]
                        .iter()
                        .filter_map(|part| part.write.as_ref());
                    let pieces = writes.flat_map(|(_, pieces)| pieces.iter());
                    files.write(self.file, *offset, pieces)
                }
                // Whether it may succeed depends on the writes before it, in earlier groups too.
                None => files.check(self.file),
            };
            results.resize(run, result);
            start = run;
        }
        if self.wants_sync()
            && let Err(error) = files.sync(self.file)
        {
            for (part, result) in self.parts.iter().zip(&mut results) {
                if part.sync && result.is_ok() {
                    *result = Err(error.clone());
                }
            }
        }
        let mut is_urgent = false;
        let mut completions = Vec::with_capacity(results.len());
        for (part, result) in self.parts.iter_mut().zip(results) {
            match part.then.take().filter(|_| result.is_ok()) {
                Some(then) => then(),
                None => is_urgent = true,
            }
            completions.push(Completion {
                id: part.id,
                result: result.map(|()| Bytes::new()),
            });
        }
        Completed {
            completions,
            is_urgent,
        }
    }

    /// The end of the run of writes from `start` that continue each other on disk.
    fn run_from(&self, start: usize) -> usize {
        let Some((offset, pieces)) = &self.parts[start].write else {
            return start + 1;
        };
        let mut end_offset = offset + length(pieces);
        let mut end = start + 1;
        while let Some(Part {
            write: Some((offset, pieces)),
            ..
        }) = self.parts.get(end)
        {
            if *offset != end_offset {
                break;
            }
            end_offset += length(pieces);
            end += 1;
        }
        end
    }
}

fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

fn file_of(operation: &Operation) -> Option<File> {
    match operation {
        Operation::Write { file, .. } | Operation::Sync { file } => Some(*file),
        _ => None,
    }
}
