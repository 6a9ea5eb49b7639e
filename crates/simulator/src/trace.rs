//! What happened, for people: a line per event, and a running hash of all of them.
//!
//! The hash costs next to nothing and is always kept: two runs of one seed must end with the same.
//! Lines are made only when somebody wants to read them.

use std::fmt::Write as _;
use std::time::Duration;

/// What a line is about; `--html` draws each kind in its own way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something that a node says or does.
    Node(usize),
    /// A frame between two hosts, and when it arrives.
    Frame {
        /// From which host.
        from: usize,
        /// To which host.
        to: usize,
        /// When it arrives.
        arrives: Duration,
    },
    /// A fault, on one host or on all, and for how long.
    Fault {
        /// On which host; `None` for the network or all.
        host: Option<usize>,
        /// For how long.
        time: Duration,
    },
    /// Something a client did.
    Client(usize),
    /// A member of gossip, or all of it. Its time is its own: it begins when the clusters' is over.
    Gossip(Option<usize>),
    /// The run itself.
    Run,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, since the run began.
    pub at: Duration,
    /// What it is about.
    pub kind: Kind,
    /// What happened.
    pub text: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = match &self.kind {
            Kind::Node(host) => format!("n{}", host + 1),
            Kind::Frame { from, to, .. } => format!("n{} → n{}", from + 1, to + 1),
            Kind::Fault { host, .. } => match host {
                Some(host) => format!("fault n{}", host + 1),
                None => "fault".to_owned(),
            },
            Kind::Client(client) => format!("client {client}"),
            Kind::Gossip(Some(member)) => format!("gossip n{}", member + 1),
            Kind::Gossip(None) => "gossip".to_owned(),
            Kind::Run => "run".to_owned(),
        };
        write!(
            formatter,
            "{:>13.6}  {who:<10}  {}",
            self.at.as_secs_f64(),
            self.text
        )
    }
}

/// Collects lines, or only their hash.
#[derive(Clone, Debug)]
pub struct Trace {
    lines: Option<Vec<Line>>,
    hash: u64,
}

impl Trace {
    /// Nothing has happened; lines are kept if `keep`.
    #[must_use]
    pub fn new(keep: bool) -> Trace {
        Trace {
            lines: keep.then(Vec::new),
            hash: 0xCBF2_9CE4_8422_2325,
        }
    }

    /// Takes a number into the hash.
    pub fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29);
    }

    /// Whether lines are wanted.
    #[must_use]
    pub fn keeps_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// Keeps a line, if lines are wanted.
    pub fn line(&mut self, at: Duration, kind: Kind, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let text = text();
            lines.push(Line { at, kind, text });
        }
    }

    /// The hash of everything.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines that were kept.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        self.lines.as_deref().unwrap_or(&[])
    }

    /// All lines as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in self.lines() {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}
