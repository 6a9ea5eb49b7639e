//! The times and bounds of gossip, by name, as values that are passed in.

use std::time::Duration;

/// How a member behaves. [`Config::local_network`] is for one building or region.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// A member is probed once in this time, for a healthy prober.
    pub probe_interval: Duration,
    /// How long a direct probe is waited for before others are asked to try.
    pub probe_timeout: Duration,
    /// How many others are asked to try.
    pub indirect_probes: usize,
    /// A suspicion that many confirm lasts this many probe intervals, times `log10` of the members.
    pub suspicion_factor: f64,
    /// A suspicion that nobody confirms lasts this many times longer (Lifeguard's local health
    /// aware suspicion); 1 turns that off.
    pub suspicion_maximum_factor: f64,
    /// How many others must confirm a suspicion until it lasts as short as it can.
    pub confirmations: usize,
    /// The worst that a member can think of its own health; 0 turns that off.
    pub unhealthiest: u32,
    /// Whoever is asked to probe says when it got no answer; and a suspect is told so with each
    /// probe (Lifeguard's nacks and buddy system).
    pub lifeguard_messages: bool,
    /// A member whose process stood still judges nobody by what it slept through (ours).
    pub notices_sleep: bool,
    /// News are sent this often while there are any.
    pub gossip_interval: Duration,
    /// To how many members at a time.
    pub gossip_fanout: usize,
    /// A piece of news is sent this many times `log10` of the members, rounded up.
    pub retransmit_factor: u32,
    /// The dead get news too for this long: one that is not dead hears that it is thought to be.
    pub gossip_to_the_dead: Duration,
    /// Two members compare all they know this often; longer in clusters of more than 32.
    pub sync_interval: Duration,
    /// With more pieces of news than this to pass on, packets would take too long: then two members
    /// compare all they know every `hurried_sync_interval`.
    pub news_backlog: usize,
    /// See `news_backlog`.
    pub hurried_sync_interval: Duration,
    /// A dead member is forgotten after this long.
    pub forget_dead_after: Duration,
    /// Wall clocks that are further apart than this are reported. Nothing depends on them but
    /// what people read, certificates and tokens.
    pub clock_tolerance: Duration,
    /// A leaving member tells so many others at once.
    pub goodbyes: usize,
    /// A leaving member tells others for at most this long.
    pub leave_patience: Duration,
    /// The bounds.
    pub limits: Limits,
}

/// How much a member keeps and sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest packet, in bytes: what goes through every network undivided.
    pub packet_bytes: usize,
    /// The largest exchange of all that is known, in bytes.
    pub sync_bytes: usize,
    /// Members that are kept, dead ones included.
    pub members: usize,
    /// A name or address, in bytes.
    pub text_bytes: usize,
    /// Probes on behalf of others that are under way.
    pub relays: usize,
}

impl Config {
    /// For members that reach each other within a few milliseconds.
    #[must_use]
    pub fn local_network() -> Config {
        Config {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            suspicion_factor: 4.0,
            suspicion_maximum_factor: 6.0,
            confirmations: 3,
            unhealthiest: 8,
            lifeguard_messages: true,
            notices_sleep: true,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            retransmit_factor: 4,
            gossip_to_the_dead: Duration::from_secs(30),
            sync_interval: Duration::from_secs(30),
            news_backlog: 128,
            hurried_sync_interval: Duration::from_secs(2),
            forget_dead_after: Duration::from_secs(24 * 3600),
            clock_tolerance: Duration::from_secs(1),
            goodbyes: 32,
            leave_patience: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }

    /// SWIM as it was before Lifeguard: what this one is measured against.
    #[must_use]
    pub fn plain_swim() -> Config {
        Config {
            suspicion_maximum_factor: 1.0,
            unhealthiest: 0,
            lifeguard_messages: false,
            notices_sleep: false,
            ..Config::local_network()
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            packet_bytes: 1400,
            sync_bytes: 16 << 20,
            members: 16 << 10,
            text_bytes: 255,
            relays: 1024,
        }
    }
}
