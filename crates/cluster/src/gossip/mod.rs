//! Who is alive: SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2017).
//!
//! ```text
//!   each interval, one member:   ping ─▶ ack                                    alive
//!                                ping ─▶ (silence) ─▶ three others and a stream try ─▶ ack   alive
//!                                                                └─▶ silence             suspect
//!   suspect ─▶ it denies that, louder than the rumour (higher incarnation)       alive
//!           └▶ nobody denies it in time                                          dead
//!   all of this rides on the packets that are sent anyway: `O(log n)` until everybody knows
//! ```
//!
//! What Lifeguard adds: a member that gets no answers doubts itself first (`awareness.rs`); a
//! suspicion that nobody confirms lasts longer (`suspicion.rs`); a suspect hears it with the probe.
//! What we add: a member whose own process stood still (its deadline was long past when it woke)
//! judges nobody by what it slept through.
//!
//! Gossip carries liveness, addresses, load, versions and epochs: hints. It decides nothing. Two
//! members may see two different things for a while; whatever must be agreed on is in a log.
//!
//! The machine is pure: it is told of packets, of exchanges (a request and an answer over a
//! stream, for what does not fit a packet) and of time, and says what to send.

mod awareness;
mod claims;
pub mod config;
mod exchanges;
pub mod member;
mod message;
mod news;
mod probing;
mod refusal;
mod roster;
pub mod seal;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use base::{ClusterId, Instant, NodeId, Random, WallTime};
use bytes::Bytes;

use awareness::Awareness;
use config::Config;
use exchanges::Purpose;
use member::{Facts, Incarnation, Member};
use message::{Claim, Kind, Message, Profile, encode_head};
use news::News;
use probing::{Probe, Relay};
pub use refusal::Refusal;
use roster::Roster;
use seal::{Keys, Sealer};
use suspicion::Suspicion;

/// What a member begins with.
#[derive(Clone, Debug)]
pub struct Startup {
    /// Times and bounds.
    pub config: Config,
    /// Packets of other clusters are refused.
    pub cluster: ClusterId,
    /// Which node this is.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Where others send to.
    pub address: SocketAddr,
    /// The number of this start of the node: what others say of an earlier one is old.
    pub start: u32,
    /// Random for each process: keeps packets of two processes apart (see [`seal`]).
    pub process: u64,
    /// What it says of itself.
    pub facts: Facts,
    /// With which packets are closed.
    pub keys: Keys,
    /// For everything that is drawn.
    pub seed: u64,
}

/// A request over a stream; whoever carries it names it in [`Input::ExchangeDone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// Somebody else's request over a stream, named by whoever carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A packet came in.
    Packet {
        /// Where it came from.
        from: SocketAddr,
        /// What it holds.
        bytes: Bytes,
    },
    /// Somebody asks over a stream; answered by [`Output::Answer`], or not at all.
    ExchangeAsked {
        /// Names the stream.
        stream: StreamId,
        /// Where it came from.
        from: SocketAddr,
        /// The request.
        bytes: Bytes,
    },
    /// What came of an [`Output::Exchange`].
    ExchangeDone {
        /// Which one.
        exchange: ExchangeId,
        /// The answer, if there was one within a reasonable time.
        answer: Option<Bytes>,
    },
    /// Become one with the cluster that one of these belongs to. Tried again until somebody is
    /// there, and when everybody is gone.
    Join(Vec<SocketAddr>),
    /// This member has something new to say of itself.
    Facts(Facts),
    /// Other keys.
    Keys(Keys),
    /// Say goodbye; [`Output::Left`] follows when it has been heard.
    Leave,
    /// The moment named by [`Gossip::deadline`] has come.
    Deadline,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a packet. It may get lost.
    Packet {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Ask over a stream, and report [`Input::ExchangeDone`].
    Exchange {
        /// Names it.
        exchange: ExchangeId,
        /// Whom.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Answer over a stream.
    Answer {
        /// Which one.
        stream: StreamId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Something about a member has changed; [`Gossip::member`] tells the rest.
    Event(Event),
    /// The goodbye has been said: the process may end.
    Left,
}

/// What a member learns, for logs, metrics and whoever acts on hints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is there: new, or back from the dead.
    Joined(NodeId),
    /// It says something else of itself.
    Changed(NodeId),
    /// It is suspected.
    Suspected {
        /// Who.
        node: NodeId,
        /// By whom.
        by: NodeId,
    },
    /// It has denied a suspicion.
    Recovered(NodeId),
    /// It did not deny it.
    Died(NodeId),
    /// It has said goodbye.
    Left(NodeId),
    /// This member has been suspected and has denied it. Often: it, or its network, is slow.
    Denied {
        /// Who suspected it.
        by: NodeId,
    },
    /// This member's process stood still.
    Slept(Duration),
    /// A packet or exchange was refused, and why.
    Refused {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        reason: Refusal,
    },
    /// A node was not let in because another one that is present has its name.
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: NodeId,
        /// Who claims it.
        claimant: NodeId,
    },
    /// Two processes say that they are this node: a copied data folder.
    TwoOfOne {
        /// Which node.
        node: NodeId,
        /// Where one is.
        one: SocketAddr,
        /// Where the other is.
        other: SocketAddr,
    },
    /// A member's wall clock is far from this member's: one of the two is wrong, most likely the
    /// one that is far from the others' as well.
    ClockApart {
        /// Whose.
        node: NodeId,
        /// By how much it is ahead, or, less than nothing, behind.
        ahead_milliseconds: i64,
    },
    /// Nobody at this address let this member in.
    JoinFailed(SocketAddr),
}

/// One member of the gossip.
#[derive(Debug)]
pub struct Gossip {
    config: Config,
    cluster: ClusterId,
    me: NodeId,
    name: String,
    address: SocketAddr,
    facts: Facts,
    incarnation: Incarnation,
    random: Random,
    sealer: Sealer,
    roster: Roster,
    news: News,
    awareness: Awareness,
    suspicions: BTreeMap<NodeId, Suspicion>,
    /// When each suspect is dead, soonest first.
    deaths: BTreeSet<(Instant, NodeId)>,
    sequence: u32,
    probe: Option<Probe>,
    relays: BTreeMap<u32, Relay>,
    exchanges: BTreeMap<ExchangeId, Purpose>,
    next_exchange: u64,
    seeds: Vec<SocketAddr>,
    next_probe: Instant,
    next_gossip: Instant,
    next_sync: Instant,
    last_sync: Instant,
    next_join: Instant,
    /// Until when a goodbye is being said.
    leaving_until: Option<Instant>,
    has_left: bool,
    /// The wall clock of the step under way: told to others, compared with theirs, decides
    /// nothing.
    wall: WallTime,
}

impl Gossip {
    /// A member that knows only itself.
    ///
    /// # Panics
    /// If a text of `startup` is longer than the limit: whoever reads it from outside checks it.
    #[must_use]
    pub fn new(startup: Startup, now: Instant) -> Gossip {
        let mut random = Random::from_seed(startup.seed);
        let sealer = Sealer::new(&startup.keys, startup.node, startup.process);
        let config = startup.config;
        let mut gossip = Gossip {
            // Members that start together do not all act at the same moments.
            next_probe: now + part_of(config.probe_interval, &mut random),
            next_gossip: now + part_of(config.gossip_interval, &mut random),
            next_sync: now + part_of(config.sync_interval, &mut random),
            last_sync: now,
            next_join: now,
            awareness: Awareness::new(config.unhealthiest),
            config,
            cluster: startup.cluster,
            me: startup.node,
            name: startup.name,
            address: startup.address,
            facts: startup.facts,
            incarnation: Incarnation::of_start(startup.start),
            random,
            sealer,
            roster: Roster::default(),
            news: News::default(),
            suspicions: BTreeMap::new(),
            deaths: BTreeSet::new(),
            sequence: 0,
            probe: None,
            relays: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            next_exchange: 0,
            seeds: Vec::new(),
            leaving_until: None,
            has_left: false,
            wall: WallTime::default(),
        };
        assert!(
            gossip.acceptable(&gossip.profile()),
            "names and addresses are checked before gossip begins"
        );
        gossip.announce(now);
        gossip
    }

    /// Takes one input and appends what is to be done. `wall` is compared with what others say,
    /// and decides nothing.
    pub fn step(&mut self, now: Instant, wall: WallTime, input: Input, out: &mut Vec<Output>) {
        if self.has_left {
            return;
        }
        self.wall = wall;
        self.notice_sleep(now, out);
        match input {
            Input::Packet { from, bytes } => {
                if let Some(message) = self.opened(from, &bytes, out) {
                    self.packet(now, from, message, out);
                }
            }
            Input::ExchangeAsked {
                stream,
                from,
                bytes,
            } => {
                if let Some(message) = self.opened(from, &bytes, out) {
                    self.exchange_asked(now, stream, from, message, out);
                }
            }
            Input::ExchangeDone { exchange, answer } => {
                self.exchange_done(now, exchange, answer, out);
            }
            Input::Join(seeds) => {
                self.seeds = seeds;
                self.next_join = now;
            }
            Input::Facts(facts) => {
                let profile = Profile {
                    facts: facts.clone(),
                    ..self.profile()
                };
                assert!(
                    self.acceptable(&profile),
                    "facts are checked where they come in"
                );
                if facts != self.facts {
                    self.facts = facts;
                    // Whoever says goodbye says nothing else: it would take that back.
                    if self.leaving_until.is_none() {
                        self.incarnation = self.incarnation.next();
                        self.announce(now);
                    }
                }
            }
            Input::Keys(keys) => self.sealer.set(&keys),
            Input::Leave => self.leave(now, out),
            Input::Deadline => {}
        }
        self.act(now, out);
    }

    /// When to call [`Gossip::step`] with [`Input::Deadline`] if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.has_left {
            return None;
        }
        let probe = self.probe.as_ref().map_or(self.next_probe, Probe::deadline);
        let gossip =
            (!self.news.is_empty() && self.roster.present() > 1).then_some(self.next_gossip);
        let join = self.wants_to_join().then_some(self.next_join);
        let death = self.deaths.first().map(|(at, _)| *at);
        let relay = self.relays.values().map(Relay::deadline).min();
        let sooner = [gossip, join, death, relay, self.leaving_until];
        let sooner = sooner.into_iter().flatten().min();
        let regular = probe.min(self.sync_at());
        Some(sooner.map_or(regular, |sooner| sooner.min(regular)))
    }

    /// Everybody that this member has heard of, itself included, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.roster.iter()
    }

    /// What is known of one member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.roster.get(node)
    }

    /// How unhealthy this member thinks that it is itself: 0 is healthy.
    #[must_use]
    pub fn unhealthiness(&self) -> u32 {
        self.awareness.score()
    }

    /// Everything whose time has come.
    fn act(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.bury(now, out);
        self.probe(now, out);
        self.relay(now, out);
        self.join(now, out);
        self.sync(now, out);
        self.spread(now, out);
        self.finish_leaving(now, out);
    }

    /// Whoever stood still has not listened, and may judge nobody for that time.
    fn notice_sleep(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(deadline) = self.deadline() else {
            return;
        };
        let slept = now.since(deadline);
        if slept < self.config.probe_interval || !self.config.notices_sleep {
            return;
        }
        out.push(Output::Event(Event::Slept(slept)));
        self.awareness.worse(1);
        self.probe = None;
        self.next_probe = now;
        for suspicion in self.suspicions.values_mut() {
            suspicion.postpone(slept);
        }
        let deaths = std::mem::take(&mut self.deaths);
        self.deaths = deaths
            .into_iter()
            .map(|(at, node)| (at + slept, node))
            .collect();
    }

    fn opened(&self, from: SocketAddr, bytes: &[u8], out: &mut Vec<Output>) -> Option<Message> {
        let refused = |reason: Refusal| Output::Event(Event::Refused { from, reason });
        let body = match self.sealer.open(bytes) {
            Ok(body) => body,
            Err(closed) => {
                out.push(refused(Refusal::Closed(closed)));
                return None;
            }
        };
        match Message::decode(&body) {
            Err(reason) => out.push(refused(Refusal::Malformed(reason))),
            Ok(message) if message.cluster != self.cluster => {
                let (theirs, ours) = (message.cluster, self.cluster);
                out.push(refused(Refusal::OtherCluster { theirs, ours }));
            }
            Ok(message) => return Some(message),
        }
        None
    }

    fn packet(&mut self, now: Instant, from: SocketAddr, message: Message, out: &mut Vec<Output>) {
        let Message {
            sender,
            kind,
            claims,
            ..
        } = message;
        for claim in claims {
            self.claim(now, claim, out);
        }
        match kind {
            Kind::Ping { sequence, target } if target == self.me => {
                let first = self.suspicions.contains_key(&sender).then_some(sender);
                let wall = self.wall;
                let kind = Kind::Ack { sequence, wall };
                // A stranger's answer is as short as the question, and uses up no news: whoever
                // puts another one's address on a packet, or sends one again, gains nothing.
                let bytes = match self.roster.is_at(sender, from) {
                    true => self.sealed(kind, first),
                    false => self.bare(kind),
                };
                out.push(Output::Packet { to: from, bytes });
            }
            Kind::Ping { target, .. } => out.push(Output::Event(Event::Refused {
                from,
                reason: Refusal::ForAnother {
                    target,
                    this: self.me,
                },
            })),
            Kind::PingRequest { sequence, target } => {
                self.ping_for(now, (sender, from), sequence, target, out);
            }
            Kind::Ack { sequence, wall } => {
                self.measure(now, sender, sequence, wall, out);
                self.acknowledged(sequence, out);
            }
            Kind::Nack { sequence } => self.not_acknowledged(sequence),
            Kind::News => {}
            Kind::Sync => out.push(Output::Event(Event::Refused {
                from,
                reason: Refusal::OutOfPlace,
            })),
        }
    }

    /// Sends what is new to a few members, while there is anything.
    fn spread(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.news.is_empty() || now < self.next_gossip || self.roster.present() < 2 {
            return;
        }
        self.next_gossip = now + self.config.gossip_interval;
        let (me, dead_for) = (self.me, self.config.gossip_to_the_dead);
        let hears = |member: &Member| {
            member.node != me
                && (roster::is_present(member.state)
                    || member.state == member::State::Dead && now.since(member.since) < dead_for)
        };
        let chosen = self
            .roster
            .draw(self.config.gossip_fanout, &mut self.random, hears);
        for node in chosen {
            if self.news.is_empty() {
                break;
            }
            let to = self
                .roster
                .get(node)
                .expect("drawn from the roster")
                .address;
            let bytes = self.sealed(Kind::News, None);
            out.push(Output::Packet { to, bytes });
        }
    }

    /// A packet with as much news as fits, `first` before all others.
    fn sealed(&mut self, kind: Kind, first: Option<NodeId>) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.config.limits.packet_bytes);
        encode_head(self.cluster, self.me, kind, 0, &mut body);
        let count_at = body.len() - 4;
        let room = self
            .config
            .limits
            .packet_bytes
            .saturating_sub(body.len() + seal::OVERHEAD_BYTES);
        let enough = self.enough();
        let count = self.news.take(room, enough, first, &mut body);
        body[count_at..count_at + 4].copy_from_slice(&u32::from(count).to_le_bytes());
        self.sealer.seal(&body)
    }

    /// A packet without news.
    fn bare(&mut self, kind: Kind) -> Vec<u8> {
        let mut body = Vec::with_capacity(message::HEAD_BYTES);
        encode_head(self.cluster, self.me, kind, 0, &mut body);
        self.sealer.seal(&body)
    }

    /// How often a piece of news is sent.
    fn enough(&self) -> u32 {
        let members = self.roster.present() as f64 + 1.0;
        self.config.retransmit_factor * members.log10().ceil().max(1.0) as u32
    }

    fn profile(&self) -> Profile {
        Profile {
            node: self.me,
            incarnation: self.incarnation,
            name: self.name.clone(),
            address: self.address,
            facts: self.facts.clone(),
        }
    }

    /// Whether a profile can be told to others and to people: its texts are within bounds and hold
    /// nothing that a terminal would obey, and it fits a packet.
    fn acceptable(&self, profile: &Profile) -> bool {
        let facts = &profile.facts;
        let limits = &self.config.limits;
        let most = limits.text_bytes.min(usize::from(u8::MAX));
        let texts = [
            &profile.name,
            &facts.peer_address,
            &facts.client_address,
            &facts.release,
            &facts.domains.zone,
            &facts.domains.rack,
            &facts.domains.host,
        ];
        let is_good = |text: &&String| text.len() <= most && !text.chars().any(char::is_control);
        // Only then it can be encoded at all.
        texts.iter().all(is_good) && {
            let mut encoded = Vec::new();
            Claim::Alive(Box::new(profile.clone())).encode(&mut encoded);
            encoded.len() + message::HEAD_BYTES + seal::OVERHEAD_BYTES <= limits.packet_bytes
        }
    }

    /// Puts this member into its own roster, and what it says of itself into the news.
    fn announce(&mut self, now: Instant) {
        let profile = self.profile();
        let member = Member {
            node: profile.node,
            name: profile.name.clone(),
            address: profile.address,
            incarnation: profile.incarnation,
            state: member::State::Alive,
            facts: profile.facts.clone(),
            since: now,
            measured: None,
        };
        self.roster.put(member, &mut self.random);
        self.tell(&Claim::Alive(Box::new(profile)));
    }

    fn tell(&mut self, claim: &Claim) {
        let (about, _) = claim.about();
        let mut encoded = Vec::new();
        claim.encode(&mut encoded);
        self.news.add(about, Bytes::from(encoded));
    }
}

/// A random part of a duration.
fn part_of(duration: Duration, random: &mut Random) -> Duration {
    let nanoseconds = u64::try_from(duration.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1);
    Duration::from_nanos(random.below(nanoseconds))
}
