//! The library `foca` (SWIM with suspicion, no Lifeguard, no streams) on a simulated network with
//! the rules of ours: the same latencies, losses, standstills, and the same order of what a process
//! finds when it wakes: its timers, then its packets.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;
use std::time::Duration;

use base::{Instant, Random};
use foca::{Config, Foca, Identity, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand::rngs::SmallRng;
use rand::SeedableRng as _;
use serde::{Deserialize, Serialize};

/// Who a member is. One that was declared dead comes back as a newer one of the same place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Id {
    pub(crate) index: u32,
    life: u32,
}

impl Identity for Id {
    type Addr = u32;

    fn renew(&self) -> Option<Id> {
        Some(Id {
            life: self.life + 1,
            ..self.clone()
        })
    }

    fn addr(&self) -> u32 {
        self.index
    }

    fn win_addr_conflict(&self, adversary: &Id) -> bool {
        self.life > adversary.life
    }
}

type One = Foca<Id, PostcardCodec, SmallRng, NoCustomBroadcast>;

/// What a member asks for in one step.
#[derive(Default)]
struct Asked {
    packets: Vec<(u32, Vec<u8>)>,
    timers: Vec<(Timer<Id>, Duration)>,
    down: Vec<u32>,
}

impl Runtime<Id> for Asked {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        if let Notification::MemberDown(id) = notification {
            self.down.push(id.index);
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.packets.push((to.index, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.timers.push((event, after));
    }
}

enum Happening {
    Timer(Timer<Id>),
    Packet(Vec<u8>),
    Wake,
}

struct Member {
    foca: Option<One>,
    still_until: Instant,
    waiting: Vec<Happening>,
}

pub(crate) struct Network {
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) loss: f64,
    /// Who declared whom dead.
    pub(crate) deaths: Vec<(usize, usize)>,
    pub(crate) packets: u64,
    pub(crate) packet_bytes: u64,
    members: Vec<Member>,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
}

impl Network {
    pub(crate) fn cluster(seed: u64, count: usize) -> Network {
        let mut network = Network {
            now: Instant(1),
            random: Random::from_seed(seed),
            loss: 0.0,
            deaths: Vec::new(),
            packets: 0,
            packet_bytes: 0,
            members: Vec::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
        };
        let size = NonZeroU32::new(u32::try_from(count).expect("few")).expect("some");
        for index in 0..count {
            let id = |index: usize| Id {
                index: u32::try_from(index).expect("few"),
                life: 0,
            };
            let random = SmallRng::seed_from_u64(network.random.next_u64());
            let foca = Foca::new(id(index), Config::new_lan(size), random, PostcardCodec);
            network.members.push(Member {
                foca: Some(foca),
                still_until: Instant(0),
                waiting: Vec::new(),
            });
            if index > 0 {
                network.with(index, |foca, asked| foca.announce(id(0), asked));
            }
        }
        network
    }

    pub(crate) fn crash(&mut self, index: usize) {
        self.members[index].foca = None;
    }

    pub(crate) fn stand_still(&mut self, index: usize, duration: Duration) {
        let until = self.now + duration;
        self.members[index].still_until = until;
        self.schedule(until, index, Happening::Wake);
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.run_until(until, |_| false);
    }

    pub(crate) fn run_until(&mut self, until: Instant, done: impl Fn(&Network) -> bool) -> bool {
        let glance = Duration::from_millis(100);
        let mut check = self.now + glance;
        while let Some(Reverse((at, number, index))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            if at >= check {
                if done(self) {
                    return true;
                }
                check = at + glance;
            }
            self.queue.pop();
            self.now = at;
            let happening = self.happenings.remove(&number).expect("scheduled once");
            self.happen(index, happening);
        }
        self.now = until;
        done(self)
    }

    /// Whether everybody that runs knows everybody that runs.
    pub(crate) fn is_whole(&self) -> bool {
        let running = self.members.iter().filter_map(|member| member.foca.as_ref());
        let count = running.clone().count();
        running.clone().all(|foca| foca.num_members() == count - 1)
    }

    /// Whether nobody that runs takes this one for alive.
    pub(crate) fn all_miss(&self, index: usize) -> bool {
        let running = self.members.iter().filter_map(|member| member.foca.as_ref());
        running.clone().all(|foca| {
            let mut members = foca.iter_members();
            members.all(|member| member.id().index as usize != index)
        })
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(200 + self.random.below(1800))
    }

    fn schedule(&mut self, at: Instant, index: usize, happening: Happening) {
        self.next += 1;
        self.happenings.insert(self.next, happening);
        self.queue.push(Reverse((at, self.next, index)));
    }

    fn happen(&mut self, index: usize, happening: Happening) {
        if self.now < self.members[index].still_until {
            self.members[index].waiting.push(happening);
            return;
        }
        let mut waiting = std::mem::take(&mut self.members[index].waiting);
        waiting.sort_by_key(|waited| !matches!(waited, Happening::Timer(_)));
        for waited in waiting {
            self.take(index, waited);
        }
        self.take(index, happening);
    }

    fn take(&mut self, index: usize, happening: Happening) {
        match happening {
            Happening::Wake => {}
            // What it finds wrong with either concerns itself alone.
            Happening::Timer(timer) => self.with(index, |foca, asked| foca.handle_timer(timer, asked)),
            Happening::Packet(bytes) => {
                self.with(index, |foca, asked| foca.handle_data(&bytes, asked));
            }
        }
    }

    fn with<E>(&mut self, index: usize, act: impl FnOnce(&mut One, &mut Asked) -> Result<(), E>) {
        let Some(foca) = &mut self.members[index].foca else {
            return;
        };
        let mut asked = Asked::default();
        let _ = act(foca, &mut asked);
        self.deaths
            .extend(asked.down.iter().map(|dead| (index, *dead as usize)));
        for (timer, after) in asked.timers {
            self.schedule(self.now + after, index, Happening::Timer(timer));
        }
        for (to, bytes) in asked.packets {
            self.packets += 1;
            self.packet_bytes += bytes.len() as u64;
            if self.random.chance(self.loss) {
                continue;
            }
            let at = self.now + self.latency();
            self.schedule(at, to as usize, Happening::Packet(bytes));
        }
    }
}
