//! What the members tell of themselves, and how it is got.
//!
//! Every node that can be asked is asked for itself, and for those that cannot: it asks them over
//! the port that peers use. Twice, a little apart, so that what happens now can be told from what
//! happened once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use hyper::Method;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{self, AdminError, Member, Status};

/// How long one member's answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a node tells of itself. Fields that a later version adds are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Evidence {
    pub(crate) release: String,
    pub(crate) wall_milliseconds: u64,
    #[serde(default)]
    pub(crate) uptime_seconds: u64,
    pub(crate) status: Option<Status>,
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) hints: Vec<String>,
    #[serde(default)]
    pub(crate) certificates: Vec<Certificate>,
    #[serde(default)]
    pub(crate) disk: Disk,
    #[serde(default)]
    pub(crate) files: BTreeMap<String, Files>,
    #[serde(default)]
    pub(crate) metrics: String,
    /// The keyspaces but the default one, as this node's table has them.
    #[serde(default)]
    pub(crate) keyspaces: Vec<Placed>,
    /// This node's replicas of them.
    #[serde(default)]
    pub(crate) groups: Vec<Group>,
}

/// Who holds a keyspace.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) group: u64,
    pub(crate) replicas: Vec<String>,
}

/// What a node sees of a keyspace's group that it holds a replica of.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Group {
    pub(crate) group: u64,
    pub(crate) in_doubt: bool,
    pub(crate) witness: bool,
    pub(crate) elect: usize,
    pub(crate) commit: usize,
    pub(crate) role: String,
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) chosen: u64,
    pub(crate) applied: u64,
    pub(crate) digest: String,
    pub(crate) alarms: Vec<String>,
    pub(crate) farthest_behind: Option<u64>,
    /// What it asks of its leader, in commands, KiB and read rounds a second.
    #[serde(default)]
    pub(crate) load: u64,
}

/// A certificate that a node uses.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) key: String,
    pub(crate) file: String,
    pub(crate) subject: String,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) problem: Option<String>,
}

/// Where a node keeps its data.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Disk {
    pub(crate) folder: String,
    pub(crate) filesystem: String,
    pub(crate) free_bytes: Option<u64>,
    pub(crate) total_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) problem: Option<String>,
}

/// The files of one kind in the data folder.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Files {
    pub(crate) count: usize,
    pub(crate) bytes: u64,
    pub(crate) oldest_seconds: u64,
    #[serde(default)]
    pub(crate) names: Vec<String>,
}

/// One look at one member.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) evidence: Evidence,
    /// By how much its wall clock is ahead of this machine's.
    pub(crate) ahead_milliseconds: i64,
    /// How long the answer took; the clock is wrong by half of that at most.
    pub(crate) taken: Duration,
}

/// What was got of one member.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub(crate) member: Member,
    /// Why it could not be looked at, or what came of it: one or two looks.
    pub(crate) looks: Result<(Look, Option<Look>), String>,
}

impl Looked {
    /// The newest look.
    pub(crate) fn newest(&self) -> Option<&Look> {
        let (first, later) = self.looks.as_ref().ok()?;
        Some(later.as_ref().unwrap_or(first))
    }

    pub(crate) fn status(&self) -> Option<&Status> {
        self.newest()?.evidence.status.as_ref()
    }

    pub(crate) fn name(&self) -> &str {
        name_of(&self.member)
    }
}

/// A member that was added without a name is called by its id until it has one.
fn name_of(member: &Member) -> &str {
    if member.name.is_empty() {
        &member.id
    } else {
        &member.name
    }
}

/// Everything that there is to go by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    /// The members, as the newest membership names them.
    pub(crate) members: Vec<Looked>,
}

impl Case {
    /// Members that have told something, with their newest look.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&Looked, &Look)> {
        let members = self.members.iter();
        members.filter_map(|member| Some((member, member.newest()?)))
    }

    /// What the member says that leads in the highest term.
    pub(crate) fn leader(&self) -> Option<&Status> {
        let statuses = self.members.iter().filter_map(Looked::status);
        statuses
            .filter(|status| status.role == "leader")
            .max_by_key(|status| status.term)
    }
}

/// Asks all members that can be found through these nodes.
///
/// # Errors
/// None of these nodes answers.
pub(crate) async fn gather(admins: &[String], window: Duration) -> Result<Case, AdminError> {
    let mut asked: Vec<(String, Status)> = Vec::new();
    let mut failure = None;
    let statuses = each(admins.to_vec(), |admin| async move {
        let silent = AdminError::Silent {
            address: admin.clone(),
        };
        let status = timeout(PATIENCE, admin::status(&admin)).await;
        (admin, status.unwrap_or(Err(silent)))
    });
    for (admin, status) in statuses.await {
        match status {
            Ok(status) => asked.push((admin, status)),
            Err(error) => failure = Some(error),
        }
    }
    let newest = asked
        .iter()
        .max_by_key(|(_, status)| (status.term, status.applied));
    let Some((_, newest)) = newest else {
        return Err(failure.expect("at least one node was named"));
    };
    let members = newest.members.clone();
    let ways: Vec<(String, String)> = asked
        .iter()
        .map(|(admin, status)| (status.name.clone(), admin.clone()))
        .collect();
    let first = look_at_all(&members, &ways).await;
    tokio::time::sleep(window).await;
    let later = look_at_all(&members, &ways).await;
    let both = first.into_iter().zip(later);
    let members = members.into_iter().zip(both).map(|(member, looks)| Looked {
        member,
        looks: match looks {
            (Ok(first), later) => Ok((first, later.ok())),
            (Err(_), Ok(later)) => Ok((later, None)),
            (Err(problem), Err(_)) => Err(problem),
        },
    });
    Ok(Case {
        members: members.collect(),
    })
}

async fn look_at_all(members: &[Member], ways: &[(String, String)]) -> Vec<Result<Look, String>> {
    let members = members.to_vec();
    each(members, |member| look_at(member, ways.to_vec())).await
}

/// All at the same time, in order.
async fn each<T, R, F>(items: Vec<T>, make: impl Fn(T) -> F) -> Vec<R>
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (index, item) in items.into_iter().enumerate() {
        let task = make(item);
        tasks.spawn(async move { (index, task.await) });
    }
    let mut all = tasks.join_all().await;
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Asks a member itself if its own address is known, else through the others until one gets
/// through.
async fn look_at(member: Member, ways: Vec<(String, String)>) -> Result<Look, String> {
    let name = name_of(&member).to_owned();
    let own = ways.iter().find(|(node, _)| *node == name);
    let others = ways.iter().filter(|(node, _)| *node != name);
    let mut problems = Vec::new();
    for (node, admin) in own.into_iter().chain(others) {
        let path = match *node == name {
            true => "/evidence".to_owned(),
            false => format!("/evidence/{}", member.id),
        };
        match look(admin, &path).await {
            Ok(look) => return Ok(look),
            Err(problem) => problems.push(problem),
        }
    }
    Err(problems.join("; "))
}

async fn look(admin: &str, path: &str) -> Result<Look, String> {
    let (begun, before) = (Instant::now(), now_milliseconds());
    let request = admin::request(admin, Method::GET, path, None);
    let answer = timeout(PATIENCE, request).await;
    let taken = begun.elapsed();
    let text = match answer {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("{admin} has not answered within {PATIENCE:?}")),
    };
    let evidence: Evidence = serde_json::from_str(&text)
        .map_err(|error| format!("{admin} answered something else than evidence: {error}"))?;
    let theirs = i64::try_from(evidence.wall_milliseconds).unwrap_or(i64::MAX);
    let half = i64::try_from(taken.as_millis() / 2).unwrap_or(i64::MAX);
    Ok(Look {
        ahead_milliseconds: theirs.saturating_sub(before.saturating_add(half)),
        evidence,
        taken,
    })
}

/// This machine's wall clock.
pub(crate) fn now_milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
