//! What gossip counts.

use cluster::gossip::Event;
use cluster::gossip::member::{Member, State};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Label;

/// What gossip counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct GossipMetrics {
    /// Members by state.
    pub(crate) members: Family<Label, Gauge>,
    /// Events by name.
    pub(crate) events: Family<Label, Counter>,
    /// Bytes of packets sent.
    pub(crate) sent_bytes: Counter,
    /// How unhealthy this member thinks that it is itself.
    pub(crate) unhealthiness: Gauge,
}

impl GossipMetrics {
    /// Counts the members anew.
    pub(crate) fn count(&self, members: &[Member]) {
        let states = [State::Alive, State::Suspect, State::Dead, State::Left];
        for (state, name) in states.into_iter().zip(["alive", "suspect", "dead", "left"]) {
            let count = members
                .iter()
                .filter(|member| member.state == state)
                .count();
            let gauge = self.members.get_or_create(&[("state", name)]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts an event.
    pub(crate) fn event(&self, event: &Event) {
        let name = match event {
            Event::Joined(_) => "joined",
            Event::Changed(_) => "changed",
            Event::Suspected { .. } => "suspected",
            Event::Recovered(_) => "recovered",
            Event::Died(_) => "died",
            Event::Left(_) => "left",
            Event::Denied { .. } => "denied",
            Event::Slept(_) => "slept",
            Event::Refused { .. } => "refused",
            Event::NameTaken { .. } => "name-taken",
            Event::TwoOfOne { .. } => "two-of-one",
            Event::ClockApart { .. } => "clock-apart",
            Event::JoinFailed(_) => "join-failed",
        };
        self.events.get_or_create(&[("event", name)]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let name = |name: &str| format!("quorate_gossip_{name}");
        let members = self.members.clone();
        registry.register(
            name("members"),
            "Members that gossip knows, by state",
            members,
        );
        let events = self.events.clone();
        registry.register(name("events"), "What gossip noticed, by event", events);
        let sent = self.sent_bytes.clone();
        registry.register(name("sent_bytes"), "Bytes of gossip packets sent", sent);
        registry.register(
            name("unhealthiness"),
            "How unhealthy this node thinks that it is itself: 0 is healthy",
            self.unhealthiness.clone(),
        );
    }
}
