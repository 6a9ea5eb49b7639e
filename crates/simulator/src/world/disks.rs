//! A host's disk at work: requests begin, end, and are told of.
//!
//! ```text
//!   request ──▶ lane ──time──▶ done ──▶ what waited for it is sent, by the disk's own thread
//!                                 └───▶ the node hears of it, at once or with what happens next
//! ```

use std::time::Duration;

use journal::disk::{Completion, Lane, Request};
use node::{Input, Node};

use super::World;
use super::event::What;
use crate::marks::Mark;

impl World {
    pub(crate) fn disk_begins(&mut self, index: usize, request: Request) {
        let lane = request.lane;
        if self.hosts[index].disk.submit(request) {
            self.serve_disk(index, lane);
        }
    }

    /// A lane turns to its next request; a fault that ends lets it begin anew.
    pub(crate) fn serve_disk(&mut self, index: usize, lane: Lane) {
        let machine = &self.scenario.machine;
        let (delay, jitter) = (machine.disk_delay, machine.disk_jitter);
        let host = &mut self.hosts[index];
        if let Some((turn, times)) = host.disk.serve(self.now, lane) {
            let takes = Duration::from_micros(delay)
                + Duration::from_nanos(host.disk_random.below(jitter * 1000 + 1));
            self.on_host(takes * times, index, What::Disk(lane, turn));
        }
    }

    pub(super) fn disk_ends(&mut self, index: usize, lane: Lane, turn: u64) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if !host.disk.is_at(lane, turn) {
            return;
        }
        let stalled_until = host.disk.ailments.stalled_until(lane);
        if stalled_until > now {
            self.on_host_at(stalled_until, index, What::Disk(lane, turn));
            return;
        }
        let (request, result) = host.disk.complete(now, lane);
        if result.is_err() {
            host.reasons.failed = true;
        }
        let id = request.id;
        let frames = host.departing.remove(&id).filter(|_| result.is_ok());
        self.serve_disk(index, lane);
        // Nobody waits for the node, which may be busy or paused.
        self.invariants.disk_speaks(Some(id));
        let may_wait = frames.is_some();
        for (connection, body, said) in frames.into_iter().flatten() {
            self.send_looked_at(connection, body, said);
        }
        self.invariants.disk_speaks(None);
        let completion = Completion { id, result };
        self.hand_from_disk(index, lane, completion, may_wait);
    }

    /// A request has ended, and what was to be sent then has been. A node that rests may not want
    /// to be woken for it: then it hears of that with whatever happens next, as the server's does.
    pub(crate) fn disk_tells(&mut self, index: usize, completion: Completion, may_wait: bool) {
        let host = &self.hosts[index];
        let rests = host.busy_until <= self.now && !host.is_free_due;
        let is_patient = host.node.as_ref().is_some_and(Node::is_patient);
        let input = Input::Disk(completion);
        if may_wait && rests && is_patient {
            self.marks.reach(Mark::HeardLater);
            self.put_in_inbox(index, input);
        } else {
            self.deliver(index, input);
        }
    }
}
