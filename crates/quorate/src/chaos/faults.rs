//! What is done to the nodes: one fault at a time, drawn from a seed.
//!
//! | fault | what it stands for |
//! |---|---|
//! | kill | a process that is ended without a word |
//! | pause | a machine that stands still, and goes on as if nothing had been |
//! | cut off | a network cable that was pulled |
//! | wipe | journal and checkpoints gone; the identity, a small file in two copies, is there |
//! | damage, stopped | bytes changed in files while the node is down |
//! | damage, running | bytes changed while it runs, which it finds when it reads them |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is written and read as blocks on a disk.
const BLOCK_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Kill,
    Pause,
    CutOff,
    Wipe,
    DamageStopped,
    DamageRunning,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Kill,
        Kind::Pause,
        Kind::CutOff,
        Kind::Wipe,
        Kind::DamageStopped,
        Kind::DamageRunning,
    ];

    /// What is done, to be followed by the name of the node.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Kind::Kill => "kill -9",
            Kind::Pause => "pause",
            Kind::CutOff => "cut off",
            Kind::Wipe => "wipe",
            Kind::DamageStopped => "damage, stopped,",
            Kind::DamageRunning => "damage, running,",
        }
    }

    /// What has become of the node meanwhile.
    pub(super) fn state(self) -> &'static str {
        match self {
            Kind::Kill => "dead",
            Kind::Pause => "paused",
            Kind::CutOff => "cut off",
            Kind::Wipe => "wiped",
            Kind::DamageStopped | Kind::DamageRunning => "damaged",
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) node: usize,
    pub(super) time: Duration,
}

/// Faults without end: all kinds in an order of chance, then all of them again.
#[derive(Debug)]
pub(super) struct Plan {
    random: fastrand::Rng,
    nodes: usize,
    rest: Vec<Kind>,
}

impl Plan {
    pub(super) fn new(seed: u64, nodes: usize) -> Plan {
        Plan {
            random: fastrand::Rng::with_seed(seed),
            nodes,
            rest: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> Fault {
        if self.rest.is_empty() {
            self.rest = Kind::ALL.to_vec();
            self.random.shuffle(&mut self.rest);
        }
        let kind = self.rest.pop().expect("it has just been filled");
        Fault {
            kind,
            node: self.random.usize(0..self.nodes),
            time: Duration::from_millis(self.random.u64(500..5_000)),
        }
    }

    /// Changes bytes in a data folder; what was changed.
    ///
    /// # Errors
    /// The files cannot be read or written.
    pub(super) fn damage(&mut self, data: &Path) -> io::Result<String> {
        let files = files(data)?;
        if files.is_empty() {
            return Ok("there is no file yet".to_owned());
        }
        // The identity comes first, and is one file among many on a node that has run for long.
        let first = usize::from(files.len() > 1 && self.random.u8(0..6) > 0);
        let file = files[self.random.usize(first..files.len())].clone();
        let times = self.random.usize(1..8);
        let mut changed = 0;
        for _ in 0..times {
            changed += usize::from(self.flip(&file)?);
        }
        let name = file.strip_prefix(data).unwrap_or(&file).display();
        Ok(format!("{changed} bytes of {name}"))
    }

    /// Changes one byte: in a block that holds something, mostly.
    fn flip(&mut self, path: &Path) -> io::Result<bool> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            // The node has just deleted it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
        let used = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        let mut used: Vec<usize> = used.map(|(block, _)| block).collect();
        if self.random.u8(0..8) == 0 {
            used.clear();
        }
        let block = match used.is_empty() {
            true => self
                .random
                .usize(0..bytes.len().div_ceil(BLOCK_BYTES).max(1)),
            false => used[self.random.usize(0..used.len())],
        };
        let at = block * BLOCK_BYTES + self.random.usize(0..BLOCK_BYTES);
        let at = at.min(bytes.len().saturating_sub(1));
        let Some(byte) = bytes.get(at) else {
            return Ok(false);
        };
        let changed = byte ^ (1 << self.random.u8(0..8));
        let file: File = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(&[changed], at as u64)?;
        file.sync_all()?;
        Ok(true)
    }
}

/// All files of a data folder that hold data, in order. One of the two copies of the identity at
/// most is damaged: with both, nobody knows whose votes these are.
fn files(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for part in ["journal", "checkpoints"] {
        let entries = match fs::read_dir(data.join(part)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            files.push(entry?.path());
        }
    }
    files.sort();
    files.insert(0, data.join("identity.toml"));
    files.retain(|path| path.is_file());
    Ok(files)
}

/// Deletes journal and checkpoints.
///
/// # Errors
/// They cannot be deleted.
pub(super) fn wipe(data: &Path) -> io::Result<()> {
    for part in ["journal", "checkpoints"] {
        let folder = data.join(part);
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    fs::remove_file(entry?.path())?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let mut plan = Plan::new(3, 5);
        for _ in 0..4 {
            let round: Vec<Fault> = (0..Kind::ALL.len()).map(|_| plan.next()).collect();
            for kind in Kind::ALL {
                assert!(round.iter().any(|fault| fault.kind == kind), "{round:?}");
            }
            assert!(round.iter().all(|fault| fault.node < 5));
        }
        let (mut one, mut same) = (Plan::new(3, 5), Plan::new(3, 5));
        assert_eq!(one.next(), same.next());
    }

    #[test]
    fn a_byte_is_changed_and_files_are_wiped() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        fs::create_dir(&journal).unwrap();
        fs::write(journal.join("1.segment"), vec![7; 2000]).unwrap();
        let mut plan = Plan::new(1, 3);
        let said = plan.damage(folder.path()).unwrap();
        let now = fs::read(journal.join("1.segment")).unwrap();
        assert!(now.iter().any(|byte| *byte != 7), "{said}");
        wipe(folder.path()).unwrap();
        assert_eq!(fs::read_dir(&journal).unwrap().count(), 0);
    }
}
