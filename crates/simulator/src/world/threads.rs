//! What lies between the thread of a node and those that serve its disk.
//!
//! ```text
//!   node ──requests, in order──▶ lane's thread ──▶ disk
//!        ◀─completions, in order─               ◀──          of two lanes: in any order
//! ```
//!
//! Whatever is on its way when the process dies is lost with it: a request that never reached the
//! disk, or a completion that nobody was told.

use std::time::Duration;

use base::{Instant, Random};
use journal::disk::{Completion, Lane, Request};

use super::World;
use super::event::What;

/// The ways between the threads of one node.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    random: Random,
    /// When the last message arrives, by lane: to the disk, and from there.
    last: [[Instant; 2]; 2],
}

/// Which way.
#[derive(Clone, Copy)]
enum Way {
    ToDisk,
    FromDisk,
}

impl Threads {
    pub(crate) fn new(random: Random) -> Threads {
        Threads {
            random,
            last: [[Instant(0); 2]; 2],
        }
    }

    /// When what is said now arrives, at most so much later: never before what was said first.
    fn arrival(&mut self, now: Instant, most: Duration, way: Way, lane: Lane) -> Instant {
        let late = Duration::from_nanos(self.random.below(most.as_nanos() as u64) + 1);
        let last = &mut self.last[way as usize][usize::from(lane == Lane::Background)];
        *last = (now + late).max(*last);
        *last
    }
}

impl World {
    /// A node's request goes to the thread that serves its lane.
    pub(super) fn hand_to_disk(&mut self, index: usize, request: Request) {
        match self.crossing(index, Way::ToDisk, request.lane) {
            None => self.disk_begins(index, request),
            Some(at) => self.on_host_at(at, index, What::DiskRequest(Box::new(request))),
        }
    }

    /// What came of a request goes back to the node.
    pub(super) fn hand_from_disk(
        &mut self,
        index: usize,
        lane: Lane,
        completion: Completion,
        may_wait: bool,
    ) {
        match self.crossing(index, Way::FromDisk, lane) {
            None => self.disk_tells(index, completion, may_wait),
            Some(at) => {
                let completion = Box::new(completion);
                let end = What::DiskEnd {
                    completion,
                    may_wait,
                };
                self.on_host_at(at, index, end);
            }
        }
    }

    /// When something arrives at another thread; `None` if at once.
    fn crossing(&mut self, index: usize, way: Way, lane: Lane) -> Option<Instant> {
        let most = match self.scenario.machine.threads {
            0 => return None,
            most if self.is_calm => Duration::from_micros(most.min(50)),
            most => Duration::from_micros(most),
        };
        let threads = &mut self.hosts[index].threads;
        Some(threads.arrival(self.now, most, way, lane))
    }
}
