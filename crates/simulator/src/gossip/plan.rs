//! What one seed does to its members: how many there are, how good the links, which faults when.
//!
//! Swarm testing as for the nodes: most kinds are off in any one run, the others have the strength
//! that chance gives them.

use std::time::Duration;

use base::Random;
use cluster::gossip::config::{Config, Limits};

use crate::streams::Streams;

/// One thing that goes wrong, or just happens.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// A member dies without a word, and is started again after so long, if ever.
    Kill {
        member: usize,
        down: Option<Duration>,
    },
    /// A member says goodbye, and is started again after so long, if ever.
    Leave {
        member: usize,
        away: Option<Duration>,
    },
    /// A process stands still, and then finds what came meanwhile.
    Pause { member: usize, time: Duration },
    /// Whatever is sent to or by a member takes so much longer.
    Slow {
        member: usize,
        by: Duration,
        time: Duration,
    },
    /// Nothing gets from members whose bit is set in the first to those in the second; perhaps nor
    /// back.
    Cut {
        from: u64,
        to: u64,
        is_both_ways: bool,
        time: Duration,
    },
    /// A member has something new to say of itself, perhaps while it leaves.
    Facts { member: usize },
    /// A wall clock is set.
    SetWall { member: usize, by: i64 },
    /// The next step of an exchange of keys.
    Rotate,
    /// A packet of another cluster, under another key, damaged, or of random bytes.
    Stranger { member: usize },
}

impl Fault {
    /// The family, for counting.
    pub(super) fn family(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "gossip: kill",
            Fault::Leave { .. } => "gossip: leave",
            Fault::Pause { .. } => "gossip: pause",
            Fault::Slow { .. } => "gossip: slow member",
            Fault::Cut { .. } => "gossip: partition",
            Fault::Facts { .. } => "gossip: new facts",
            Fault::SetWall { .. } => "gossip: wall clock set",
            Fault::Rotate => "gossip: keys exchanged",
            Fault::Stranger { .. } => "gossip: stranger's packet",
        }
    }
}

/// How good the links are. Shares are per million packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) delay: Duration,
    /// What is added at random: what is sent later may arrive before.
    pub(super) jitter: Duration,
    pub(super) tail_share: u64,
    pub(super) tail: Duration,
    pub(super) loss_share: u64,
    pub(super) duplicate_share: u64,
    /// How many come again much later, perhaps to another process at that address.
    pub(super) replay_share: u64,
    /// How many exchanges break.
    pub(super) break_share: u64,
}

impl Links {
    /// Links of one building on a good day.
    pub(super) const CALM: Links = Links {
        delay: Duration::from_micros(200),
        jitter: Duration::from_micros(800),
        tail_share: 0,
        tail: Duration::ZERO,
        loss_share: 0,
        duplicate_share: 0,
        replay_share: 0,
        break_share: 0,
    };
}

/// All of a run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) members: usize,
    pub(super) config: Config,
    pub(super) links: Links,
    pub(super) is_sealed: bool,
    /// By how much each wall clock is ahead at first, in milliseconds.
    pub(super) ahead: Vec<i64>,
    /// When each member is started first.
    pub(super) starts: Vec<Duration>,
    /// In order of time.
    pub(super) faults: Vec<(Duration, Fault)>,
    /// How long the first phase takes.
    pub(super) duration: Duration,
}

/// One kind of faults in so many is on.
const ON_ONE_IN: u64 = 4;
/// Between two steps of an exchange of keys: longer than a packet takes on links without tails.
const ROTATION_STEP: u64 = 2;

impl Plan {
    pub(super) fn draw(seed: u64) -> Plan {
        let random = &mut Streams::of(seed).named("gossip.plan");
        let members = match random.below(32) {
            0 => 10 + random.below(15),
            1..=5 => 6 + random.below(4),
            _ => 3 + random.below(3),
        } as usize;
        // Many members make many packets a second.
        let duration = match members {
            10.. => 5 + random.below(10),
            _ => 5 + random.below(25),
        };
        let duration = Duration::from_secs(duration);
        let local = Config::local_network();
        let config = Config {
            // Mostly shorter than in production, where thirty seconds would be most of a run.
            sync_interval: Duration::from_secs(pick(random, &[2, 5, 5, 10, 30])),
            gossip_to_the_dead: Duration::from_secs(pick(random, &[0, 5, 30])),
            news_backlog: pick(random, &[2, 128]),
            limits: Limits {
                packet_bytes: pick(random, &[300, 1400, 1400]),
                ..local.limits
            },
            ..local
        };
        let links = links(random);
        let mut ahead = vec![0; members];
        if is_on(random) {
            let offsets = [300, 5_000, -5_000, 86_400_000, -86_400_000];
            ahead.fill_with(|| pick(random, &offsets));
        }
        let mut starts = vec![Duration::ZERO; members];
        if is_on(random) {
            starts.fill_with(|| Duration::from_millis(random.below(8_000)));
        }
        let is_sealed = is_on(random);
        let mut plan = Plan {
            members,
            config,
            links,
            is_sealed,
            ahead,
            starts,
            faults: Vec::new(),
            duration,
        };
        plan.draw_faults(random);
        plan
    }

    fn draw_faults(&mut self, random: &mut Random) {
        // Two at least are there in the end.
        let mut may_go = self.members - 2;
        for kind in 0..8 {
            if !is_on(random) {
                continue;
            }
            for _ in 0..=random.below(5) {
                let at = Duration::from_millis(random.below(self.duration.as_millis() as u64));
                let fault = match kind {
                    0 | 1 => {
                        let time = Duration::from_millis(random.below(12_000));
                        let goes = random.below(3) == 0 && may_go > 0;
                        may_go -= usize::from(goes);
                        let away = (!goes).then_some(time);
                        let member = self.member(random);
                        match kind {
                            0 => Fault::Kill { member, down: away },
                            _ => Fault::Leave { member, away },
                        }
                    }
                    2 => Fault::Pause {
                        member: self.member(random),
                        time: Duration::from_millis(200 + random.below(20_000)),
                    },
                    3 => Fault::Slow {
                        member: self.member(random),
                        by: Duration::from_millis(pick(random, &[100, 400, 2_000])),
                        time: Duration::from_millis(random.below(20_000)),
                    },
                    4 => self.cut(random),
                    5 => Fault::Facts {
                        member: self.member(random),
                    },
                    6 => Fault::SetWall {
                        member: self.member(random),
                        by: pick(random, &[-3_600_000, -2_000, 900, 2_000, 3_600_000]),
                    },
                    _ => Fault::Stranger {
                        member: self.member(random),
                    },
                };
                self.faults.push((at, fault));
            }
        }
        if self.is_sealed && random.below(2) == 0 {
            let first = random.below(self.duration.as_secs());
            let steps = (0..3).map(|step| first + step * ROTATION_STEP);
            let steps = steps.map(|at| (Duration::from_secs(at), Fault::Rotate));
            self.faults.extend(steps);
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn member(&self, random: &mut Random) -> usize {
        random.below(self.members as u64) as usize
    }

    /// Any split, one alone, one link; both ways, or one way.
    fn cut(&self, random: &mut Random) -> Fault {
        let all = (1 << self.members) - 1;
        let one = 1 << self.member(random);
        let (from, to) = match random.below(5) {
            0 | 1 => {
                let some = random.next_u64() & all;
                (some, all & !some)
            }
            2 => (one, all & !one),
            3 => (all & !one, one),
            _ => (one, 1 << self.member(random)),
        };
        Fault::Cut {
            from,
            to,
            is_both_ways: random.below(2) == 0,
            time: Duration::from_millis(500 + random.below(30_000)),
        }
    }

    /// Whether nothing in this run can keep a question and its answer from arriving in time. Who
    /// is there then answers, so that nobody may take it for dead.
    pub(super) fn is_reliable(&self) -> bool {
        let Links {
            tail_share,
            loss_share,
            break_share,
            ..
        } = self.links;
        let harms = |fault: &Fault| {
            matches!(
                fault,
                Fault::Pause { .. } | Fault::Slow { .. } | Fault::Cut { .. }
            )
        };
        tail_share + loss_share + break_share == 0
            && !self.faults.iter().any(|(_, fault)| harms(fault))
    }

    /// By when all must agree on who is there, once nothing goes wrong any more.
    ///
    /// Whoever doubts itself recovers by one point with each probe that is answered, and probes
    /// more slowly until then (Lifeguard, section 3); within two rounds each is probed (SWIM,
    /// section 4.3); a suspicion lasts at most `longest`. What packets of news missed is compared:
    /// each comparing doubles how many know it, which takes five intervals among 24; members that
    /// took each other for dead need as many again, and chance some more. What was on its way
    /// arrives within [`LATEST`].
    pub(super) fn converges_within(&self) -> Duration {
        let config = &self.config;
        let members = self.members as u32;
        let recovers =
            config.probe_interval * (config.unhealthiest * (config.unhealthiest + 1) / 2);
        let probed = config.probe_interval * (2 * members);
        let scale = f64::from(members).log10().max(1.0);
        let longest = config.suspicion_factor * scale * config.suspicion_maximum_factor;
        let longest = config.probe_interval.mul_f64(longest);
        let compared = config.sync_interval.mul_f64(1.25) * 16;
        recovers + probed + longest + compared + LATEST
    }
}

/// When whatever was sent while faults were on has arrived, or been given up.
pub(super) const LATEST: Duration = Duration::from_secs(20);

fn links(random: &mut Random) -> Links {
    let mut share = |most: u64| match random.below(ON_ONE_IN) {
        0 => random.below(most) + 1,
        _ => 0,
    };
    Links {
        tail_share: share(200_000),
        loss_share: share(400_000),
        duplicate_share: share(200_000),
        replay_share: share(100_000),
        break_share: share(300_000),
        delay: Duration::from_micros(pick(random, &[100, 1_000, 20_000])),
        jitter: Duration::from_micros(pick(random, &[100, 2_000, 50_000])),
        tail: Duration::from_millis(pick(random, &[100, 600, 3_000])),
    }
}

fn is_on(random: &mut Random) -> bool {
    random.below(ON_ONE_IN) == 0
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}
