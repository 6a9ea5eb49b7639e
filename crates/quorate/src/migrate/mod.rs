//! `quorate migrate`: a live etcd copied into a new cluster, and followed until it is given up.
//!
//! ```text
//!   old cluster ── all keys at one revision ──▶ spool ──▶ in the order of revisions ──┐
//!        │                                                                            ├──▶ new
//!        ├──────── every revision after that (one watch) ──▶ in order ────────────────┘  cluster
//!        ├──────── leases, under their numbers, kept alive
//!        └──────── users, roles, permissions
//!
//!   cut over:  no change left ──▶ both sides compared, key by key ──▶ has the old one stood still?
//! ```
//!
//! - [`spool`]: what was read and is to be written, in its order. [`pages`]: reading. [`changes`]:
//!   writing. [`following`]: the watch. [`leases`], [`users`]: the rest. [`comparing`]: the proof.
//! - [`options`]: what can be typed. [`limits`]: what bounds it.
//!
//! **What is the same afterwards**: keys, values, the lease of each key, the order in which keys
//! were created and in which they were changed last, leases and their numbers, users, roles. **What
//! is not**: revisions and versions (a key that was ever changed has at least version 2), history,
//! what is left of a lease's time, passwords.

mod changes;
mod comparing;
mod following;
mod leases;
mod limits;
pub(crate) mod options;
mod pages;
mod spool;
#[cfg(test)]
mod tests;
mod users;

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use client::Client;
use client::etcd::Error as Refusal;
use client::etcd::proto::etcdserverpb::request_op::Request as Operation;
use client::etcd::proto::etcdserverpb::{DeleteRangeRequest, TxnRequest};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use changes::{Change, Gathering};
use comparing::{Compared, compare};
use following::Feed;
use leases::Leases;
use limits::{LIMITS, Limits};
use options::{Migrate, Passwords};
use pages::Pages;
use spool::{Collecting, Spool};
use users::Users;

/// Between two attempts to end.
const REST: Duration = Duration::from_secs(2);

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The old cluster.
    #[error("the old cluster cannot be {doing}: {error}")]
    Source {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        error: client::Error,
    },
    /// The new cluster.
    #[error("the new cluster cannot be {doing}: {error}")]
    Target {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        error: client::Error,
    },
    /// There is something in the new cluster.
    #[error("the new cluster holds {0} already; --overwrite removes everything that it holds")]
    NotEmpty(String),
    /// The old cluster compacts faster than it is read.
    #[error(
        "the old cluster has compacted what was not copied yet; begin anew with --overwrite, if \
         need be with its automatic compaction set to a longer time"
    )]
    Compacted,
    /// Its changes cannot be followed.
    #[error("the old cluster does not tell what changes: {0}")]
    Watch(String),
    /// A change that it has made does not arrive.
    #[error("the old cluster is at revision {wanted}, but tells of changes up to {seen} only")]
    Silent {
        /// Its revision.
        wanted: i64,
        /// The last that it told of.
        seen: i64,
    },
    /// Both sides are not the same.
    #[error(
        "the clusters differ in {differences} keys, e.g. {shown}; does anybody else write to the \
         new one? Begin anew with --overwrite"
    )]
    Different {
        /// How many keys.
        differences: u64,
        /// Some of them.
        shown: String,
    },
    /// A temporary file or a thread.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Error {
    fn source(doing: &'static str, error: client::Error) -> Error {
        match error.is(Refusal::Compacted) {
            true => Error::Compacted,
            false => Error::Source { doing, error },
        }
    }

    fn target(doing: &'static str, error: client::Error) -> Error {
        Error::Target { doing, error }
    }
}

/// Says how far it is.
#[allow(
    clippy::print_stderr,
    reason = "what a person reads while the program goes on"
)]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// What `quorate migrate` prints at the end.
pub(crate) async fn migrate(options: &Migrate) -> Result<String, Error> {
    let passwords = options.known_passwords()?;
    let (source, target) = (options.source()?, options.target()?);
    // Asked first, so that a wrong address or password shows before anything is done.
    let from = users::read(&source).await;
    from.map_err(|error| Error::source("read", error))?;
    make_room(&target, options.overwrite, &passwords).await?;
    let (spool, revision) = read_all(&source, options).await?;
    let mut feed = following::follow(source.clone(), revision + 1, LIMITS);
    let mut copy = Copy::new(source, target, passwords);
    copy.leases.look().await?;
    copy.users().await?;
    copy.write_all(&spool, revision).await?;
    drop(spool);
    if options.follow {
        tell(
            "following the old cluster; to cut over, stop what writes to it, then press Enter \
             (or send SIGUSR1)",
        );
        copy.follow_until(&mut feed, told_to_end()?).await?;
    }
    copy.end(&mut feed, options.follow).await
}

/// Comes true when somebody presses Enter, or SIGUSR1 comes. That standard input ends means
/// nothing: many programs have none.
fn told_to_end() -> io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    let mut signals = signal(SignalKind::user_defined1())?;
    let other = sender.clone();
    tokio::spawn(async move {
        if signals.recv().await.is_some() {
            // Told twice is told once.
            let _ = other.try_send(());
        }
        // Held for ever, so that the other side's end does not look like an order.
        std::future::pending::<()>().await;
    });
    std::thread::Builder::new()
        .name("enter".to_owned())
        .spawn(move || {
            let mut line = String::new();
            if io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
                let _ = sender.try_send(());
            }
        })?;
    Ok(receiver)
}

/// Makes sure that the new cluster is empty.
async fn make_room(target: &Client, overwrite: bool, known: &Passwords) -> Result<(), Error> {
    let failed = |error| Error::target("looked at", error);
    let (_, keys) = pages::revision_and_count(target).await.map_err(failed)?;
    let leases = target.leases().await.map_err(failed)?.leases;
    let present = users::read(target).await.map_err(failed)?;
    let held = [
        (keys as usize, "keys"),
        (leases.len(), "leases"),
        (present.users.len(), "users"),
        (present.roles.len(), "roles"),
    ];
    let held: Vec<String> = held
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if held.is_empty() {
        return Ok(());
    }
    if !overwrite {
        return Err(Error::NotEmpty(held.join(", ")));
    }
    let failed = |error| Error::target("emptied", error);
    let everything = DeleteRangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..DeleteRangeRequest::default()
    };
    target.delete_range(everything).await.map_err(failed)?;
    for lease in leases {
        match target.lease_revoke(lease.id).await {
            Err(error) if !error.is(Refusal::LeaseNotFound) => return Err(failed(error)),
            _ => {}
        }
    }
    // All but root, who gets roles later.
    let nobody = Users::default();
    let made = users::make(target, &nobody, &present, &Passwords::new()).await;
    made.map_err(failed)?;
    let reset = users::reset_root(target, &present, known).await;
    reset.map_err(failed)?;
    tell(&format!("removed {} from the new cluster", held.join(", ")));
    Ok(())
}

/// Reads every key at one revision, which is returned too.
async fn read_all(source: &Client, options: &Migrate) -> Result<(Spool, i64), Error> {
    for _ in 0..LIMITS.readings {
        match read_once(source, options).await {
            Err(Error::Compacted) => tell("the old cluster has compacted; reading begins anew"),
            outcome => return outcome,
        }
    }
    Err(Error::Compacted)
}

async fn read_once(source: &Client, options: &Migrate) -> Result<(Spool, i64), Error> {
    let counted = pages::revision_and_count(source).await;
    let (revision, count) = counted.map_err(|error| Error::source("read", error))?;
    let bar = bar("reading", count as u64);
    let mut collecting = Collecting::new(options.spool_dir.as_deref())?;
    let mut pages = Pages::new(source, revision, LIMITS);
    let mut keys = 0u64;
    loop {
        let next = pages.next().await;
        let Some(pair) = next.map_err(|error| Error::source("read", error))? else {
            break;
        };
        collecting.push(&pair)?;
        keys += 1;
        bar.set_position(keys);
    }
    bar.finish_and_clear();
    tell(&format!("read {keys} keys as of revision {revision}"));
    Ok((collecting.finish()?, revision))
}

/// The copy that comes into being.
struct Copy {
    source: Client,
    target: Client,
    limits: Limits,
    passwords: Passwords,
    gathering: Gathering,
    leases: Leases,
    /// Up to which revision of the old cluster everything has been gathered.
    gathered: i64,
    /// Users of the new cluster whose password nobody knows.
    locked: BTreeSet<String>,
}

impl Copy {
    fn new(source: Client, target: Client, passwords: Passwords) -> Copy {
        Copy {
            leases: Leases::new(source.clone(), target.clone()),
            source,
            target,
            limits: LIMITS,
            passwords,
            gathering: Gathering::new(LIMITS),
            gathered: 0,
            locked: BTreeSet::new(),
        }
    }

    /// Writes what was read at `revision`.
    async fn write_all(&mut self, spool: &Spool, revision: i64) -> Result<(), Error> {
        let bar = bar("writing", spool.len() as u64);
        for changes in spool.revisions() {
            let changes = changes?;
            bar.inc(changes.len() as u64);
            self.write(changes).await?;
        }
        self.flush().await?;
        self.gathered = revision;
        bar.finish_and_clear();
        tell("written; what has changed since is next");
        Ok(())
    }

    /// Writes what one revision has changed, now or together with what follows.
    async fn write(&mut self, mut changes: Vec<Change>) -> Result<(), Error> {
        for change in &mut changes {
            if let Change::Put(put) = change
                && put.lease != 0
                && !self.leases.ensure(put.lease).await?
            {
                // The lease is over: that the key is gone comes later.
                put.lease = 0;
            }
        }
        for transaction in self.gathering.push(changes) {
            self.commit(transaction).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        match self.gathering.take() {
            Some(transaction) => self.commit(transaction).await,
            None => Ok(()),
        }
    }

    async fn commit(&mut self, mut transaction: TxnRequest) -> Result<(), Error> {
        let failed = |error| Error::target("written to", error);
        match self.target.txn(transaction.clone()).await {
            Err(error) if error.is(Refusal::LeaseNotFound) => {}
            outcome => return outcome.map(drop).map_err(failed),
        }
        // A lease has ended in the new cluster, or was kept from being renewed: it is granted anew.
        let mut hung = BTreeSet::new();
        for operation in &transaction.success {
            if let Some(Operation::RequestPut(put)) = &operation.request {
                hung.insert(put.lease);
            }
        }
        self.leases.forget(&hung);
        for operation in &mut transaction.success {
            if let Some(Operation::RequestPut(put)) = &mut operation.request
                && put.lease != 0
                && !self.leases.ensure(put.lease).await?
            {
                put.lease = 0;
            }
        }
        self.target.txn(transaction).await.map(drop).map_err(failed)
    }

    /// Writes what changes until somebody says that it is enough.
    async fn follow_until(
        &mut self,
        feed: &mut Feed,
        mut end: mpsc::Receiver<()>,
    ) -> Result<(), Error> {
        let mut look = tokio::time::interval(self.limits.lease_interval);
        let bar = ProgressBar::no_length()
            .with_style(ProgressStyle::with_template("{spinner} {msg}").expect("it is valid"));
        loop {
            tokio::select! {
                biased;
                _ = end.recv() => break,
                _ = look.tick() => {
                    self.flush().await?;
                    self.leases.look().await?;
                    self.leases.reap(self.gathered).await?;
                }
                next = feed.recv() => self.take(feed, next).await?,
            }
            let waiting = feed.len();
            bar.set_message(format!(
                "copied up to revision {}, {waiting} more are waiting; Enter to cut over",
                self.gathered
            ));
            bar.tick();
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Takes one revision of the feed; writes what has gathered if it was the last for now.
    async fn take(
        &mut self,
        feed: &Feed,
        next: Option<Result<following::Revision, Error>>,
    ) -> Result<(), Error> {
        let next = next.unwrap_or(Err(Error::Watch("it has ended".to_owned())))?;
        self.write(next.changes).await?;
        self.gathered = next.revision;
        if feed.is_empty() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes everything up to a revision that the old cluster has reached.
    async fn catch_up(&mut self, feed: &mut Feed, revision: i64) -> Result<(), Error> {
        while self.gathered < revision {
            let next = tokio::time::timeout(self.limits.silence, feed.recv()).await;
            let silent = |_| Error::Silent {
                wanted: revision,
                seen: self.gathered,
            };
            let next = next.map_err(silent)?;
            self.take(feed, next).await?;
        }
        self.flush().await
    }

    /// Users and roles, made as those of the old cluster are now; which those are.
    async fn users(&mut self) -> Result<Users, Error> {
        let wanted = users::read(&self.source).await;
        let wanted = wanted.map_err(|error| Error::source("asked for its users", error))?;
        let failed = |error| Error::target("given users", error);
        let present = users::read(&self.target).await.map_err(failed)?;
        let made = users::make(&self.target, &wanted, &present, &self.passwords).await;
        self.locked.extend(made.map_err(failed)?);
        self.locked.retain(|name| wanted.users.contains_key(name));
        Ok(wanted)
    }

    /// Copies the rest, and compares; until the old cluster has stood still meanwhile, if it is to
    /// be given up.
    async fn end(mut self, feed: &mut Feed, give_up: bool) -> Result<String, Error> {
        loop {
            let revision = self.revision().await?;
            self.catch_up(feed, revision).await?;
            self.leases.look().await?;
            self.leases.reap(revision).await?;
            let wanted = self.users().await?;
            let bar = bar("comparing", 0);
            let compared = compare(&self.source, revision, &self.target, self.limits, &bar).await;
            bar.finish_and_clear();
            let compared = match compared {
                Err(Error::Compacted) => continue,
                outcome => outcome?,
            };
            if compared.differences > 0 {
                return Err(Error::Different {
                    differences: compared.differences,
                    shown: compared.shown.join(", "),
                });
            }
            assert!(
                compared.digests[0] == compared.digests[1],
                "what does not differ has one digest"
            );
            let now = self.revision().await?;
            if now != revision && give_up {
                tell(&format!(
                    "the same on both sides at revision {revision}, but the old cluster is at \
                     {now} meanwhile: something still writes to it"
                ));
                tokio::time::sleep(REST).await;
                continue;
            }
            self.leases.renew_all().await?;
            let note = self.authentication(&wanted).await?;
            return Ok(self.report(revision, now, &compared, &wanted, &note));
        }
    }

    async fn revision(&self) -> Result<i64, Error> {
        let revision = pages::revision(&self.source).await;
        revision.map_err(|error| Error::source("read", error))
    }

    /// Turns authentication on if it is on in the old cluster; what is to be said about it.
    async fn authentication(&self, wanted: &Users) -> Result<String, Error> {
        if !wanted.is_enabled {
            return Ok(String::new());
        }
        if !users::can_be_enabled(wanted, &self.passwords) {
            return Ok(
                "\nauthentication is on in the old cluster and NOT in the new one, since the \
                       password of root is not known: set it, then `auth enable`"
                    .to_owned(),
            );
        }
        let enabled = users::enable(&self.target).await;
        enabled.map_err(|error| Error::target("told to ask users to sign in", error))?;
        Ok("\nauthentication is on".to_owned())
    }

    fn report(
        &self,
        revision: i64,
        now: i64,
        compared: &Compared,
        wanted: &Users,
        note: &str,
    ) -> String {
        let moved = match now - revision {
            0 => String::new(),
            more => format!("\nthe old cluster has gone on since then: {more} revisions"),
        };
        let locked = match self.locked.len() {
            0 => String::new(),
            _ => {
                let names: Vec<&str> = self.locked.iter().map(String::as_str).collect();
                format!("\nto be given a password: {}", names.join(", "))
            }
        };
        format!(
            "the same on both sides as of revision {revision}: {} keys, digest {:032x}\n\
             {} leases, {} users, {} roles{locked}{note}{moved}",
            compared.keys,
            compared.digests[0],
            self.leases.count(),
            wanted.users.len(),
            wanted.roles.len(),
        )
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(doing: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:32}] {pos} of {len} keys {eta}")
        .expect("the template is valid")
        .progress_chars("=> ");
    ProgressBar::new(length)
        .with_style(style)
        .with_message(doing)
}
