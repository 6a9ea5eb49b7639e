//! What happens in the simulated world, in the order of time.

use base::Instant;
use journal::disk::Request;
use quorate_node::wire::Frame;
use quorate_node::{DialId, Identity, Input, Output};

pub(super) enum Happening {
    Input(Input),
    Wake,
    TryDial(DialId),
    Persisted(Identity),
    Disk(Request),
}

pub(super) struct Event {
    pub(super) at: Instant,
    pub(super) sequence: u64,
    pub(super) host: usize,
    pub(super) life: u64,
    pub(super) what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// The messages of groups that a frame brings.
fn messages(body: &bytes::Bytes) -> u32 {
    match Frame::decode(body.clone()) {
        Ok(Frame::Engine(messages)) => u32::try_from(messages.len()).expect("few"),
        _ => 1,
    }
}

/// What a slow host has to do for an input.
pub(super) fn messages_in(input: &Input) -> u32 {
    match input {
        Input::Frame { body, .. } => messages(body),
        _ => 0,
    }
}

/// What a slow host has to do for an output.
pub(super) fn messages_out(output: &Output) -> u32 {
    match output {
        Output::Frame { body, .. } => messages(body),
        Output::FramesAfter { frames, .. } => frames.iter().map(|(_, body)| messages(body)).sum(),
        _ => 0,
    }
}
