//! Carries gossip: packets over UDP, exchanges through the peers' port of the same number, and the
//! clocks.
//!
//! ```text
//!   UDP ──────────────▶ packets ─┐                            ┌─▶ packets
//!   transport::question ▶ asked ─┼─▶ Gossip (one task) ───────┼─▶ exchanges, a connection each
//!   done, commands ──────────────┘      │                     └─▶ answers
//!                                       └─▶ View, for status; events, as log lines and counters
//! ```
//!
//! What gossip says are hints: nothing in here reaches the node's thread. Whoever cannot be
//! trusted (another key, another cluster, a copied folder, a taken name, a wrong clock) is named in
//! the log, each at most once in a while: a stranger must not fill it.
//!
//! - [`attending`]: when a node begins to take part, what it tells, and its goodbye.
//! - [`keys`]: the file with the keys.

mod attending;
mod keys;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use base::Instant;
use bytes::Bytes;
use cluster::gossip::member::{Facts, Member};
use cluster::gossip::seal::Keys;
use cluster::gossip::{Event, ExchangeId, Gossip, Input, Output, Startup, StreamId};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::limits::GossipLimits;
use crate::metrics::GossipMetrics;
use crate::node_loop::Clock;
use crate::transport::{Asked, Asker, Subject};

pub(crate) use attending::{Attendance, Told};
pub(crate) use keys::read as read_keys;

/// What a member sees, as of a moment of its own clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) at: Instant,
    /// Everybody it has heard of, itself included; empty while it does not take part.
    pub(crate) members: Vec<Member>,
    /// How unhealthy it thinks that it is itself: 0 is healthy.
    pub(crate) unhealthiness: u32,
}

/// What may be asked of a member while it runs.
#[derive(Debug)]
enum Command {
    Facts(Facts),
    /// Addresses to join through, each with the name that its certificate is for.
    Join(Vec<(SocketAddr, String)>),
    Keys(Keys),
    Leave(oneshot::Sender<()>),
}

/// A member that runs. Dropping it ends it without a goodbye.
#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Whether it will be heard: if the task is busy it is not, and is to be said again.
    #[must_use]
    fn tell(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Says goodbye, and waits until it has been heard, or nobody could hear it.
    async fn leave(&self) {
        let (said, heard) = oneshot::channel();
        if self.commands.send(Command::Leave(said)).await.is_ok() {
            let _ = heard.await;
        }
    }
}

/// What a member is carried by.
#[derive(Debug)]
struct Means {
    packets: UdpSocket,
    exchanges: mpsc::Receiver<Asked>,
    asker: Asker,
    clock: Clock,
    limits: GossipLimits,
    metrics: GossipMetrics,
    view: watch::Sender<View>,
}

/// Starts a member on the current runtime.
fn start(startup: Startup, means: Means) -> Handle {
    let (commands, receiver) = mpsc::channel(means.limits.commands);
    let (carrier, exchanges, ended) = carrier(startup, means);
    tokio::spawn(carrier.run(exchanges, ended, receiver));
    Handle { commands }
}

/// What carries a member, what others ask it, and what comes of what it asks.
fn carrier(
    startup: Startup,
    means: Means,
) -> (Carrier, mpsc::Receiver<Asked>, mpsc::Receiver<Done>) {
    let limits = means.limits.clone();
    let (done, ended) = mpsc::channel(limits.exchanges);
    let carrier = Carrier {
        gossip: Gossip::new(startup, means.clock.now()),
        packets: Arc::new(means.packets),
        clock: means.clock,
        asker: means.asker,
        done,
        answering: None,
        next_stream: 0,
        names: BTreeMap::new(),
        exchanging: Arc::new(Semaphore::new(limits.exchanges)),
        view: means.view,
        is_stale: false,
        named: BTreeMap::new(),
        limits,
        metrics: means.metrics,
        leaving: Vec::new(),
    };
    (carrier, means.exchanges, ended)
}

/// What came of an exchange of this member's.
struct Done {
    exchange: ExchangeId,
    answer: Option<Bytes>,
}

struct Carrier {
    gossip: Gossip,
    packets: Arc<UdpSocket>,
    clock: Clock,
    asker: Asker,
    done: mpsc::Sender<Done>,
    /// Who waits for an answer of this member: it comes at once or not at all.
    answering: Option<(StreamId, oneshot::Sender<Vec<u8>>)>,
    next_stream: u64,
    /// What the certificates at addresses to join through are for.
    names: BTreeMap<SocketAddr, String>,
    exchanging: Arc<Semaphore>,
    view: watch::Sender<View>,
    /// A member has changed since the view was shown.
    is_stale: bool,
    /// Who has been named in the log for which reason, and when last.
    named: BTreeMap<&'static str, BTreeMap<String, Instant>>,
    limits: GossipLimits,
    metrics: GossipMetrics,
    leaving: Vec<oneshot::Sender<()>>,
}

impl Carrier {
    async fn run(
        mut self,
        mut exchanges: mpsc::Receiver<Asked>,
        mut ended: mpsc::Receiver<Done>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let mut goes_on = self.step(Input::Deadline);
        let packets = self.packets.clone();
        let mut buffer = vec![0; self.limits.packet_bytes];
        while goes_on {
            let showing = self.is_stale.then(|| self.shows_again_at());
            let deadline = self.gossip.deadline().into_iter().chain(showing).min();
            let deadline = deadline.map(|at| self.clock.moment(at).into());
            let input = tokio::select! {
                received = packets.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        let bytes = Bytes::copy_from_slice(&buffer[..length]);
                        Input::Packet { from, bytes }
                    }
                    // Told of an earlier packet that nobody took.
                    Err(_) => continue,
                },
                Some(asked) = exchanges.recv() => self.asked(asked),
                Some(Done { exchange, answer }) = ended.recv() => {
                    Input::ExchangeDone { exchange, answer }
                }
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                () = until(deadline) => Input::Deadline,
            };
            goes_on = self.step(input);
        }
        self.view.send_replace(View::default());
        for said in self.leaving {
            let _ = said.send(());
        }
    }

    fn asked(&mut self, asked: Asked) -> Input {
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        self.answering = Some((stream, asked.answer));
        Input::ExchangeAsked {
            stream,
            from: asked.from,
            bytes: asked.bytes,
        }
    }

    fn command(&mut self, command: Command) -> Input {
        match command {
            Command::Facts(facts) => Input::Facts(facts),
            Command::Keys(keys) => Input::Keys(keys),
            Command::Join(seeds) => {
                let addresses = seeds.iter().map(|(address, _)| *address).collect();
                self.names = seeds.into_iter().collect();
                Input::Join(addresses)
            }
            Command::Leave(said) => {
                self.leaving.push(said);
                Input::Leave
            }
        }
    }

    /// Whether the member is still one.
    fn step(&mut self, input: Input) -> bool {
        let mut out = Vec::new();
        let (now, wall) = (self.clock.now(), self.clock.wall());
        self.gossip.step(now, wall, input, &mut out);
        let mut goes_on = true;
        for output in out {
            match output {
                // A packet that the socket does not take is as good as lost on the way.
                Output::Packet { to, bytes } => {
                    self.metrics.sent_bytes.inc_by(bytes.len() as u64);
                    let _ = self.packets.try_send_to(&bytes, to);
                }
                Output::Exchange {
                    exchange,
                    to,
                    bytes,
                } => self.exchange(exchange, to, bytes),
                Output::Answer { stream, bytes } => {
                    if let Some((_, answer)) = self.answering.take_if(|asker| asker.0 == stream) {
                        // Whoever asked may be gone.
                        let _ = answer.send(bytes);
                    }
                }
                Output::Event(event) => {
                    self.is_stale |= changes_a_member(&event);
                    self.report(now, &event);
                }
                Output::Left => goes_on = false,
            }
        }
        // Whoever asked and was refused is let go.
        self.answering = None;
        let is_due = self.is_stale && now >= self.shows_again_at();
        if is_due || now.since(self.view.borrow().at) >= self.limits.view_interval {
            self.show(now);
        }
        goes_on
    }

    /// Showing takes a copy of the whole roster: not for each of a thousand changes.
    fn shows_again_at(&self) -> Instant {
        self.view.borrow().at + self.limits.view_pause
    }

    fn show(&mut self, now: Instant) {
        self.is_stale = false;
        let members: Vec<Member> = self.gossip.members().cloned().collect();
        let unhealthiness = self.gossip.unhealthiness();
        self.metrics.count(&members);
        self.metrics.unhealthiness.set(i64::from(unhealthiness));
        self.view.send_replace(View {
            at: now,
            members,
            unhealthiness,
        });
    }

    fn exchange(&self, exchange: ExchangeId, to: SocketAddr, bytes: Vec<u8>) {
        let known = self.gossip.members().find(|member| member.address == to);
        let name = known.map(|member| member.facts.peer_address.clone());
        let name = name.filter(|name| !name.is_empty());
        let name = name.or_else(|| self.names.get(&to).cloned());
        let name = name.unwrap_or_else(|| to.to_string());
        let (asker, done) = (self.asker.clone(), self.done.clone());
        let patience = self.limits.exchange_timeout;
        let place = self.exchanging.clone().try_acquire_owned();
        tokio::spawn(async move {
            let answer = match place {
                Ok(_place) => {
                    let to = to.to_string();
                    let asked = asker.ask(&to, &name, Subject::Gossip, &bytes, patience);
                    asked.await.ok()
                }
                Err(_) => None,
            };
            let _ = done.send(Done { exchange, answer }).await;
        });
    }

    /// Whether `who` is to be named in the log for a reason: not if it was done a moment ago, nor
    /// if many others were. Each reason has its own count: whoever makes one up silences no other.
    fn is_to_be_named(&mut self, now: Instant, reason: &'static str, who: String) -> bool {
        let again = self.limits.name_again;
        let named = self.named.entry(reason).or_default();
        named.retain(|_, since| now.since(*since) < again);
        if named.contains_key(&who) || named.len() >= self.limits.named {
            return false;
        }
        named.insert(who, now);
        true
    }

    fn report(&mut self, now: Instant, event: &Event) {
        self.metrics.event(event);
        let gossip = &self.gossip;
        let name = |node| {
            let member = gossip.member(node);
            member.map_or_else(|| node.to_string(), |member| member.name.clone())
        };
        // What happens to members may be made up too, where packets are not sealed.
        let (reason, who, line) = match event {
            Event::Changed(_) => return,
            Event::Joined(node) => (
                "joined",
                node.to_string(),
                format!("{} is there", name(*node)),
            ),
            Event::Suspected { node, by } => {
                let line = format!("{} suspects {}", name(*by), name(*node));
                ("suspected", node.to_string(), line)
            }
            Event::Recovered(node) => {
                let line = format!("{} is well", name(*node));
                ("recovered", node.to_string(), line)
            }
            Event::Died(node) => ("died", node.to_string(), format!("{} is dead", name(*node))),
            Event::Left(node) => (
                "left",
                node.to_string(),
                format!("{} has left", name(*node)),
            ),
            Event::Slept(duration) => {
                let line = format!("this process stood still for {duration:?}");
                ("slept", String::new(), line)
            }
            Event::Denied { by } => {
                let who = name(*by);
                let line = format!("{who} took this node for dead; it, or its network, is slow");
                ("denied", by.to_string(), line)
            }
            // Strangers name nobody: they could make up as many as they like.
            Event::Refused { from, reason } => {
                let line = format!("refused what {from} sent: {reason}");
                (reason.name(), String::new(), line)
            }
            Event::NameTaken {
                name,
                holder,
                claimant,
            } => {
                let line = format!(
                    "node {claimant} calls itself {name}, as node {holder} does; give it another \
                     name"
                );
                ("name-taken", claimant.to_string(), line)
            }
            Event::TwoOfOne { node, one, other } => {
                let line = format!(
                    "node {node} is at {one} and at {other}: a data folder has been copied; stop \
                     one of them"
                );
                ("two-of-one", node.to_string(), line)
            }
            Event::ClockApart {
                node,
                ahead_milliseconds,
            } => {
                let line = clock_apart(&name(*node), *ahead_milliseconds);
                ("clock-apart", node.to_string(), line)
            }
            Event::JoinFailed(address) => {
                let line = format!("nobody at {address} answers gossip");
                ("join-failed", address.to_string(), line)
            }
        };
        if !self.is_to_be_named(now, reason, who) {
            return;
        }
        match event {
            Event::Joined(_) | Event::Suspected { .. } | Event::Recovered(_) | Event::Left(_) => {
                tracing::info!("gossip: {line}");
            }
            _ => tracing::warn!("gossip: {line}"),
        }
    }
}

/// Whether what the view shows is different now.
fn changes_a_member(event: &Event) -> bool {
    match event {
        Event::Joined(_)
        | Event::Changed(_)
        | Event::Suspected { .. }
        | Event::Recovered(_)
        | Event::Died(_)
        | Event::Left(_)
        | Event::Denied { .. }
        | Event::Slept(_)
        | Event::ClockApart { .. } => true,
        Event::Refused { .. }
        | Event::NameTaken { .. }
        | Event::TwoOfOne { .. }
        | Event::JoinFailed(_) => false,
    }
}

fn clock_apart(name: &str, ahead_milliseconds: i64) -> String {
    let seconds = ahead_milliseconds.unsigned_abs() as f64 / 1000.0;
    let way = if ahead_milliseconds < 0 {
        "behind"
    } else {
        "ahead of"
    };
    format!(
        "the clock of {name} is {seconds:.1} s {way} this node's; one of the two is wrong \
         (`quorate doctor` compares all)"
    )
}

/// Until then, or for ever.
async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
