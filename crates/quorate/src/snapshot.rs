//! `quorate snapshot`: a cluster's data as one file, and a new cluster from it.
//!
//! ```text
//!   save     a node ──(etcd's Maintenance.Snapshot)──▶ FILE.part ─▶ verified ─▶ FILE
//!   status   FILE ─▶ verified ─▶ what is in it
//!   restore  FILE ─▶ verified ─▶ data folders of a new cluster
//! ```
//!
//! A file counts only after it has been read back whole: every checksum, and the digest of all that
//! is in it. One that was saved by `etcdctl snapshot save` is the same.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use client::etcd::proto::etcdserverpb::SnapshotResponse;
use client::{Client, Options};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use server::snapshot::restore::{EngineKind, NewMember, RestoreError, restore};
use server::snapshot::{Loaded, SnapshotError, load};
use tonic::Streaming;

use crate::command_line::SnapshotTask;
use crate::table::bytes;

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The cluster cannot be asked.
    #[error("the snapshot cannot be fetched: {0}")]
    Client(#[from] client::Error),
    /// The stream ended with an error.
    #[error("the snapshot broke off: {0}")]
    Stream(String),
    /// A file cannot be used.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The new cluster cannot be made.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(&'static str),
    /// The client cannot be made as asked for.
    #[error("{0}")]
    Access(String),
}

/// What `quorate snapshot ...` prints.
pub(crate) async fn snapshot(task: &SnapshotTask) -> Result<String, Error> {
    match task {
        SnapshotTask::Save {
            file,
            keyspace,
            endpoints,
            access,
        } => {
            let security = access.security().map_err(Error::Access)?;
            let client = Client::secured(endpoints, Options::default(), security)?;
            save(file, client.snapshot(Some(keyspace)).await?).await
        }
        SnapshotTask::Status { file, json } => status(file, *json),
        SnapshotTask::Restore {
            file,
            data_dir,
            name,
            peer,
            cluster,
            raise_revision,
            engine,
        } => {
            let members = members(data_dir, name, peer.as_deref(), cluster)?;
            restore_to(file, &members, *engine, *raise_revision)
        }
    }
}

async fn save(path: &Path, stream: Streaming<SnapshotResponse>) -> Result<String, Error> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let saved = take_in(stream, &part).await.and_then(|()| {
        let loaded = verified(&part)?;
        fs::rename(&part, path).map_err(failed(path))?;
        Ok(loaded)
    });
    if saved.is_err() {
        // It may never have come to be; what went wrong is said in any case.
        let _ = fs::remove_file(&part);
    }
    let loaded = saved?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(folder))?;
    Ok(format!(
        "saved {}: revision {}, {} keys, {}; read back and verified",
        path.display(),
        loaded.state.reader().revision(),
        loaded.state.reader().key_count(),
        bytes(loaded.summary.length)
    ))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::File {
        path,
        what: format!("cannot be written: {error}"),
    }
}

/// Writes what comes to a new file. Nobody but its owner may read that: every value is in it, and
/// what signs tokens.
async fn take_in(mut stream: Streaming<SnapshotResponse>, part: &Path) -> Result<(), Error> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(part)(error)),
        // An attempt that was broken off may have left one.
        _ => {}
    }
    let mut options = File::options();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(part).map_err(failed(part))?;
    let bar = bar("saving");
    loop {
        let piece = stream.message().await;
        let piece = piece.map_err(|status| Error::Stream(status.message().to_owned()))?;
        let Some(piece) = piece else { break };
        bar.set_length(bar.position() + piece.blob.len() as u64 + piece.remaining_bytes);
        bar.inc(piece.blob.len() as u64);
        file.write_all(&piece.blob).map_err(failed(part))?;
    }
    file.sync_all().map_err(failed(part))?;
    bar.finish_and_clear();
    Ok(())
}

fn status(path: &Path, as_json: bool) -> Result<String, Error> {
    let loaded = verified(path)?;
    let reader = loaded.state.reader();
    let sha256: String = loaded
        .sha256
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if as_json {
        let facts = json!({
            "cluster": loaded.head.cluster.to_string(),
            "revision": reader.revision().0,
            "compacted": reader.compacted().0,
            "keys": reader.key_count(),
            "leases": reader.leases_by_deadline().count(),
            "bytes": loaded.summary.length,
            "slot": loaded.summary.slot.0,
            "level": reader.level(),
            "digest": reader.digest().to_string(),
            "sha256": sha256,
        });
        return Ok(serde_json::to_string_pretty(&facts).expect("the facts are plain data"));
    }
    let facts = [
        ("cluster", loaded.head.cluster.to_string()),
        ("revision", reader.revision().to_string()),
        ("compacted", reader.compacted().to_string()),
        ("keys", reader.key_count().to_string()),
        ("leases", reader.leases_by_deadline().count().to_string()),
        ("size", bytes(loaded.summary.length)),
        ("slot", loaded.summary.slot.to_string()),
        ("digest", reader.digest().to_string()),
        ("sha256", sha256),
    ];
    let lines = facts.map(|(name, value)| format!("{name:<9} {value}"));
    Ok(format!(
        "{}\n\nevery checksum and the digest are right",
        lines.join("\n")
    ))
}

fn restore_to(
    path: &Path,
    members: &[NewMember],
    engine: EngineKind,
    raise_by: u64,
) -> Result<String, Error> {
    let loaded = verified(path)?;
    let bar = bar("restoring");
    bar.set_length(loaded.summary.length * members.len() as u64);
    let restored = restore(loaded, members, engine, raise_by, |written| {
        bar.set_position(written)
    })?;
    bar.finish_and_clear();
    let lines = members.iter().zip(&restored.members).map(|(member, id)| {
        let listen = match member.peer_address.as_str() {
            "" => String::new(),
            address => format!(" --listen-peer {address}"),
        };
        format!(
            "  quorate serve --name {} --data-dir {}{listen}        (member {id})",
            member.name,
            member.folder.display()
        )
    });
    Ok(format!(
        "restored as cluster {} at revision {}; start it with\n{}",
        restored.cluster,
        restored.revision,
        lines.collect::<Vec<String>>().join("\n")
    ))
}

/// One member in the folder itself, or several in folders below it.
fn members(
    data_dir: &Path,
    name: &str,
    peer: Option<&str>,
    cluster: &[String],
) -> Result<Vec<NewMember>, Error> {
    if cluster.is_empty() {
        return Ok(vec![NewMember {
            name: checked_name(name)?,
            peer_address: peer.map(checked_address).transpose()?.unwrap_or_default(),
            folder: data_dir.to_owned(),
        }]);
    }
    let mut members: Vec<NewMember> = Vec::new();
    for entry in cluster {
        let (name, address) = entry
            .split_once('=')
            .ok_or(Error::Usage("--cluster: expected NAME=HOST:PORT,..."))?;
        let member = NewMember {
            name: checked_name(name.trim())?,
            peer_address: checked_address(address.trim())?,
            folder: data_dir.join(name.trim()),
        };
        let twice = |other: &NewMember| {
            other.name == member.name || other.peer_address == member.peer_address
        };
        if members.iter().any(twice) {
            return Err(Error::Usage(
                "--cluster: a name or an address stands there twice",
            ));
        }
        members.push(member);
    }
    Ok(members)
}

fn checked_name(name: &str) -> Result<String, Error> {
    server::configuration::check_name(name).map_err(Error::Usage)?;
    Ok(name.to_owned())
}

fn checked_address(address: &str) -> Result<String, Error> {
    server::configuration::check_address(address).map_err(Error::Usage)?;
    Ok(address.to_owned())
}

fn verified(path: &Path) -> Result<Loaded, Error> {
    let failed = |error: SnapshotError| Error::File {
        path: path.to_owned(),
        what: error.to_string(),
    };
    let mut file = File::open(path).map_err(|error| failed(error.into()))?;
    let metadata = file.metadata().map_err(|error| failed(error.into()))?;
    let bar = bar("verifying");
    bar.set_length(metadata.len());
    let loaded = load(&mut file, metadata.len(), |read| bar.set_position(read)).map_err(failed)?;
    bar.finish_and_clear();
    Ok(loaded)
}

/// A bar on a terminal, nothing elsewhere.
fn bar(doing: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:32}] {bytes} of {total_bytes} {eta}")
        .expect("the template is valid")
        .progress_chars("=> ");
    ProgressBar::no_length()
        .with_style(style)
        .with_message(doing)
}
