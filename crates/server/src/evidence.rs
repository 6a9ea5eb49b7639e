//! What a node tells of itself to whoever looks for faults: `quorate doctor`, above all.
//!
//! ```text
//!   operator ─ GET /evidence ────────▶ this node's own
//!            ─ GET /evidence/n2 ─▶ this node ─ question, peers' port ─▶ n2
//! ```
//!
//! Facts only: what they mean is for whoever asks. No secret is among them, neither keys nor data.
//! Through any one node all can be looked at, which is what an operator has at three in the
//! morning; the question goes the way that peers talk, so that what does not get through is itself
//! a finding.
//!
//! Whoever asks costs the node little: an answer is shared for a moment, however many ask, and a
//! disk that hangs holds up one thread and no answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use node::group::META;
use node::{Answer, Call};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::time::timeout;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::admin;
use crate::calls::Calls;
use crate::configuration::{Configuration, Listen};
use crate::folder;
use crate::gossip::View;
use crate::http::QUORATE_VERSION;
use crate::metrics::Exposition;
use crate::node_loop::Clock;
use crate::status::StatusBody;
use crate::transport::{Asked, Subject};

/// Names of files that are told, at most.
const FILES_NAMED: usize = 16;
/// How long an answer is given to others too: looking costs the node's thread and the disk.
const SHARED_FOR: Duration = Duration::from_millis(250);
/// Peers that wait for an answer at a time; whoever asks beyond that gets none.
const PEERS_WAITING: usize = 8;

/// What evidence is gathered from; cloning shares it.
#[derive(Clone)]
pub(crate) struct Witness {
    pub(crate) calls: Calls,
    pub(crate) exposition: Exposition,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) clock: Clock,
    /// How long the node's own answers are waited for.
    pub(crate) patience: Duration,
    pub(crate) settled: Arc<Settled>,
    pub(crate) sharing: Arc<Sharing<Evidence>>,
}

/// What all who ask at the same time share.
pub(crate) struct Sharing<A> {
    /// The last answer, and when it was whole.
    last: Mutex<Option<(Instant, Arc<A>)>>,
    /// Looks at the disk that may be under way: one, since one that hangs keeps its thread.
    looking: Arc<Semaphore>,
    /// Peers that may wait.
    waiting: Arc<Semaphore>,
}

impl<A> Default for Sharing<A> {
    fn default() -> Sharing<A> {
        Sharing {
            last: Mutex::new(None),
            looking: Arc::new(Semaphore::new(1)),
            waiting: Arc::new(Semaphore::new(PEERS_WAITING)),
        }
    }
}

impl<A> Sharing<A> {
    /// The last answer, or, if it is too old, what `gather` makes.
    async fn answer(&self, gather: impl Future<Output = A>) -> Arc<A> {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < SHARED_FOR
        {
            return Arc::clone(answer);
        }
        let answer = Arc::new(gather.await);
        *last = Some((Instant::now(), Arc::clone(&answer)));
        answer
    }

    /// What `look`, which may block, finds within `patience`; nothing while an earlier look hangs.
    async fn look<T: Send + 'static>(
        &self,
        patience: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let looking = Arc::clone(&self.looking);
        let looked = async {
            let place = looking.acquire_owned().await.ok()?;
            let looked = tokio::task::spawn_blocking(move || {
                let _until_the_end = place;
                look()
            });
            looked.await.ok()
        };
        timeout(patience, looked).await.ok().flatten()
    }
}

/// What does not change while a node runs.
#[derive(Debug)]
pub(crate) struct Settled {
    folder: PathBuf,
    started: SystemTime,
    settings: BTreeMap<&'static str, String>,
    hints: Vec<String>,
    certificates: Vec<(&'static str, PathBuf)>,
}

/// Evidence, and what is true only when it is told.
#[derive(Serialize)]
struct Told<'a> {
    /// Compared with the clock of whoever asks: never shared.
    wall_milliseconds: u64,
    #[serde(flatten)]
    evidence: &'a Evidence,
}

#[derive(Serialize)]
pub(crate) struct Evidence {
    release: &'static str,
    uptime_seconds: u64,
    /// `None`: the node's thread does not answer.
    status: Option<StatusBody>,
    settings: BTreeMap<&'static str, String>,
    /// What the configuration allows and perhaps does not mean.
    hints: Vec<String>,
    certificates: Vec<CertificateBody>,
    disk: DiskBody,
    files: BTreeMap<&'static str, FilesBody>,
    processors: usize,
    /// Everything that is counted, in the text form of OpenMetrics.
    metrics: String,
    /// The keyspaces but the default one, and who holds them.
    keyspaces: Vec<PlacedBody>,
    /// This node's replicas of them.
    groups: Vec<serde_json::Value>,
}

/// Who holds a keyspace.
#[derive(Serialize)]
struct PlacedBody {
    name: String,
    group: u64,
    replicas: Vec<String>,
}

#[derive(Serialize)]
struct CertificateBody {
    key: &'static str,
    file: String,
    subject: String,
    /// Seconds since 1970.
    not_before: i64,
    /// Likewise.
    not_after: i64,
    /// Why it cannot be read, if so; the rest means nothing then.
    problem: Option<String>,
}

#[derive(Default, Serialize)]
struct DiskBody {
    folder: String,
    filesystem: String,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
    /// Why it could not be looked at, if so; then nothing is known of certificates and files.
    problem: Option<String>,
}

/// What is read from the disk.
struct LookedAt {
    certificates: Vec<CertificateBody>,
    disk: DiskBody,
    files: BTreeMap<&'static str, FilesBody>,
}

/// The files of one kind.
#[derive(Default, Serialize)]
struct FilesBody {
    count: usize,
    bytes: u64,
    oldest_seconds: u64,
    /// Some of them.
    names: Vec<String>,
}

impl Settled {
    fn look(&self) -> LookedAt {
        let certificates = self.certificates.iter();
        let certificates = certificates.flat_map(|(key, file)| certificates_in(key, file));
        LookedAt {
            certificates: certificates.collect(),
            disk: disk(&self.folder),
            files: files(&self.folder),
        }
    }

    fn not_looked_at(&self, patience: Duration) -> LookedAt {
        LookedAt {
            certificates: Vec::new(),
            disk: DiskBody {
                folder: self.folder.display().to_string(),
                problem: Some(format!("it did not answer within {patience:?}")),
                ..DiskBody::default()
            },
            files: BTreeMap::new(),
        }
    }

    pub(crate) fn new(configuration: &Configuration, folder: &Path) -> Settled {
        let tls = [&configuration.client_tls, &configuration.peer_tls];
        let keys = [
            ["cert-file", "trusted-ca-file"],
            ["peer-cert-file", "peer-trusted-ca-file"],
        ];
        let mut certificates = Vec::new();
        for (tls, [cert, authority]) in tls.into_iter().zip(keys) {
            let files = [(cert, &tls.cert_file), (authority, &tls.trusted_ca_file)];
            let named = files.into_iter();
            certificates.extend(named.filter_map(|(key, file)| Some((key, file.clone()?))));
        }
        Settled {
            folder: folder.to_owned(),
            started: SystemTime::now(),
            settings: settings(configuration),
            hints: configuration.hints(),
            certificates,
        }
    }
}

fn settings(configuration: &Configuration) -> BTreeMap<&'static str, String> {
    let milliseconds = |duration: Duration| duration.as_millis().to_string();
    let encryption = |tls: &crate::tls::TlsSettings| match (tls.auto, tls.is_on()) {
        (true, _) => "unverified",
        (false, true) => "verified",
        (false, false) => "plain",
    };
    let gossip = match (configuration.gossips(), &configuration.gossip_key_file) {
        (false, _) => "off",
        (true, None) => "open",
        (true, Some(_)) => "sealed",
    };
    let voters = configuration.cluster.len();
    let admin: &Listen = &configuration.listen_admin;
    [
        (
            "election-timeout-ms",
            milliseconds(configuration.election_timeout),
        ),
        (
            "heartbeat-interval-ms",
            milliseconds(configuration.heartbeat_interval),
        ),
        (
            "request-timeout-ms",
            milliseconds(configuration.request_timeout),
        ),
        (
            "client-tls",
            encryption(&configuration.client_tls).to_owned(),
        ),
        ("peer-tls", encryption(&configuration.peer_tls).to_owned()),
        ("gossip", gossip.to_owned()),
        ("listen-peer", configuration.peer_listener().to_string()),
        ("listen-etcd", configuration.listen_etcd.to_string()),
        ("listen-admin", admin.to_string()),
        ("cluster", voters.to_string()),
        ("zone", configuration.zone.clone()),
        ("rack", configuration.rack.clone()),
    ]
    .into()
}

impl Witness {
    /// Everything, as JSON; of a moment ago, if others have just asked.
    pub(crate) async fn tell(&self) -> Vec<u8> {
        let evidence = self.sharing.answer(self.gather()).await;
        let told = Told {
            wall_milliseconds: self.clock.wall().0,
            evidence: &evidence,
        };
        serde_json::to_vec(&told).expect("plain data is always JSON")
    }

    async fn gather(&self) -> Evidence {
        let settled = Arc::clone(&self.settled);
        // A node that is stuck is when the rest is needed most, and so is one whose disk hangs.
        let (status, keyspaces, groups, counted, looked) = tokio::join!(
            timeout(self.patience, self.calls.call(Call::Status)),
            timeout(self.patience, self.calls.call(Call::Keyspaces)),
            timeout(self.patience, self.calls.call(Call::Groups)),
            timeout(self.patience, self.calls.node_metrics()),
            self.sharing.look(self.patience, move || settled.look()),
        );
        let status = match status {
            Ok(Ok(Answer::Status(status))) => Some(*status),
            _ => None,
        };
        let mut metrics = String::new();
        let counted = counted.ok().flatten();
        // What cannot be written is missed by whoever reads it.
        let _ = self
            .exposition
            .write(counted.as_ref(), status.as_ref(), &mut metrics);
        let status = status.map(|status| {
            let view = self.view.borrow();
            StatusBody::new(status, &view, self.clock)
        });
        let keyspaces = match keyspaces {
            Ok(Ok(Answer::Keyspaces(keyspaces))) => keyspaces,
            _ => Vec::new(),
        };
        let groups = match groups {
            Ok(Ok(Answer::Groups(groups))) => groups,
            _ => Vec::new(),
        };
        let keyspaces = keyspaces.into_iter().map(|each| PlacedBody {
            name: each.name,
            group: each.group.0,
            replicas: each.replicas,
        });
        let looked = looked.unwrap_or_else(|| self.settled.not_looked_at(self.patience));
        Evidence {
            release: QUORATE_VERSION,
            uptime_seconds: self.settled.started.elapsed().unwrap_or_default().as_secs(),
            status,
            settings: self.settled.settings.clone(),
            hints: self.settled.hints.clone(),
            certificates: looked.certificates,
            disk: looked.disk,
            files: looked.files,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            metrics,
            keyspaces: keyspaces.filter(|each| each.group != META.0).collect(),
            groups: groups
                .iter()
                .filter(|each| each.group != META)
                .map(admin::group)
                .collect(),
        }
    }

    /// Answers what peers ask, and hands on what is gossip, for ever.
    pub(crate) async fn answer(
        self,
        mut questions: mpsc::Receiver<Asked>,
        gossip: mpsc::Sender<Asked>,
    ) {
        while let Some(asked) = questions.recv().await {
            match asked.subject {
                // Dropped where nobody gossips, or too much waits: then there is no answer.
                Subject::Gossip => drop(gossip.try_send(asked)),
                Subject::Evidence => {
                    let waiting = Arc::clone(&self.sharing.waiting);
                    let Ok(place) = waiting.try_acquire_owned() else {
                        continue;
                    };
                    let witness = self.clone();
                    tokio::spawn(async move {
                        let _while_it_waits = place;
                        // Whoever asked may be gone.
                        let _ = asked.answer.send(witness.tell().await);
                    });
                }
            }
        }
    }
}

fn certificates_in(key: &'static str, path: &Path) -> Vec<CertificateBody> {
    let body = |problem: Option<String>| CertificateBody {
        key,
        file: path.display().to_string(),
        subject: String::new(),
        not_before: 0,
        not_after: 0,
        problem,
    };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => return vec![body(Some(error.to_string()))],
    };
    let parsed = CertificateDer::pem_slice_iter(&text).map(|der| {
        let Ok(der) = der else {
            return body(Some("is not PEM".to_owned()));
        };
        match X509Certificate::from_der(&der) {
            Ok((_, certificate)) => CertificateBody {
                subject: certificate.subject().to_string(),
                not_before: certificate.validity().not_before.timestamp(),
                not_after: certificate.validity().not_after.timestamp(),
                ..body(None)
            },
            Err(error) => body(Some(error.to_string())),
        }
    });
    parsed.collect()
}

fn disk(path: &Path) -> DiskBody {
    let folder = path.display().to_string();
    let Ok(system) = rustix::fs::statfs(path) else {
        return DiskBody {
            folder,
            ..DiskBody::default()
        };
    };
    let block = u64::try_from(system.f_bsize).unwrap_or(0);
    DiskBody {
        folder,
        filesystem: filesystem(system.f_type as u64),
        free_bytes: Some(system.f_bavail.saturating_mul(block)),
        total_bytes: Some(system.f_blocks.saturating_mul(block)),
        problem: None,
    }
}

/// The names of what matters: what forgets everything, what is far away, and what is usual.
fn filesystem(kind: u64) -> String {
    let known = match kind & 0xffff_ffff {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "smb",
        0x6573_5546 => "fuse",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x794c_7630 => "overlay",
        0x2fc1_2fc1 => "zfs",
        other => return format!("{other:#x}"),
    };
    known.to_owned()
}

fn files(folder: &Path) -> BTreeMap<&'static str, FilesBody> {
    let mut kinds: BTreeMap<&'static str, FilesBody> = BTreeMap::new();
    let now = SystemTime::now();
    for (name, metadata) in folder::all_files(folder) {
        let kind = kinds.entry(folder::kind_of(&name)).or_default();
        let age = metadata.modified().ok();
        let age = age.and_then(|modified| now.duration_since(modified).ok());
        kind.count += 1;
        kind.bytes += metadata.len();
        kind.oldest_seconds = kind.oldest_seconds.max(age.unwrap_or_default().as_secs());
        if kind.names.len() < FILES_NAMED {
            kind.names.push(name.display().to_string());
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_look_that_hangs_holds_up_no_answer_and_only_one_thread() {
        let sharing = Sharing::<u32>::default();
        let looks = Arc::new(AtomicUsize::new(0));
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let counted = Arc::clone(&looks);
        let hangs = sharing.look(PATIENCE, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = hang.recv();
        });
        assert!(hangs.await.is_none());
        for _ in 0..10 {
            let counted = Arc::clone(&looks);
            let next = sharing.look(PATIENCE, move || counted.fetch_add(1, Ordering::SeqCst));
            assert!(next.await.is_none());
        }
        assert_eq!(looks.load(Ordering::SeqCst), 1, "the others took no thread");
        drop(release);
        let patience = Duration::from_secs(60);
        assert!(sharing.look(patience, || ()).await.is_some(), "well again");
    }

    #[tokio::test]
    async fn many_who_ask_share_one_answer_but_not_for_long() {
        let sharing = Sharing::<u32>::default();
        let gathered = AtomicUsize::new(0);
        let gather = || async {
            gathered.fetch_add(1, Ordering::SeqCst);
            7
        };
        // Between two of these lies no wait: the second comes well within the time.
        let (one, other) = tokio::join!(sharing.answer(gather()), sharing.answer(gather()));
        assert_eq!((*one, *other), (7, 7));
        assert_eq!(gathered.load(Ordering::SeqCst), 1);
        tokio::time::sleep(SHARED_FOR).await;
        sharing.answer(gather()).await;
        assert_eq!(gathered.load(Ordering::SeqCst), 2);
    }
}
