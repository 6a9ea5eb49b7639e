//! A node that stops: what it leads goes to others, what it owes is answered.
//!
//! What sleeps is left alone: nobody waits for it, and its other replicas elect when this process
//! has ended, as they do after any end of a process. And what was given away and came back is kept:
//! where all nodes stop at once, they would hand each group round until their patience ends.

use base::GroupId;

use super::{Opened, Running};
use crate::group::Moment;
use crate::interface::Output;
use crate::peers::Peers;

impl Opened {
    /// Whether this node gave it away, and leads it all the same by now.
    fn came_back(&self) -> bool {
        let given_in = self.given_in;
        self.group.leads() && given_in.is_some_and(|epoch| epoch != self.group.epoch)
    }
}

impl Running {
    /// A node that stops hands over what it leads; again, if an attempt came to nothing.
    pub fn hand_over(&mut self, moment: Moment, peers: &mut Peers, out: &mut Vec<Output>) {
        self.moment = moment;
        let is_due = |opened: &Opened| {
            opened.group.leads() && !opened.group.is_asleep() && !opened.came_back()
        };
        let groups = self.groups.iter();
        let leading: Vec<GroupId> = groups
            .filter(|(_, opened)| is_due(opened))
            .map(|(id, _)| *id)
            .collect();
        for id in leading {
            self.with(id, out, |group, out| group.hand_over(moment, peers, out));
            if let Some(opened) = self.groups.get_mut(&id) {
                opened.given_in = Some(opened.group.epoch);
            }
        }
    }

    /// Whether a node that stops leads nothing that another could and somebody may wait for, and
    /// owes no answer.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.groups.values().all(|opened| {
            let group = &opened.group;
            let only_voter = group.membership.voters.len() <= 1;
            let led_by_another = group.leader.is_some() && !group.leads();
            let may_end = led_by_another || only_voter || group.is_asleep() || opened.came_back();
            group.calls.under_way() == 0 && may_end
        })
    }
}
