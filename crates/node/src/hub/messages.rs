//! From events to messages: cut at revisions, or, where fragments are allowed, within one.

use bytes::Bytes;
use etcd::watch::{
    HEAD_BYTES_MAX, WatchHeader, event_length, push_event, push_fragment, push_head,
};
use state::{Event, EventKind};

use super::groups::Form;
use super::limits::HubLimits;

/// A message with events.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// How long its head is: what follows is the same under every id.
    head: usize,
    /// The first revision that it tells of.
    pub(super) first: i64,
    pub(super) events: u32,
    /// It goes on with the revision that the message before began.
    pub(super) continues: bool,
}

/// A revision is longer than a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RevisionTooLarge;

impl Form {
    /// Whether a watcher of this form gets the event.
    pub(super) fn takes(self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// Writes messages for one form and id.
struct Composer<'a> {
    header: WatchHeader,
    id: i64,
    messages: &'a mut Vec<Message>,
    bytes: Vec<u8>,
    head: usize,
    first: i64,
    events: u32,
    continues: bool,
}

impl Composer<'_> {
    fn begin(&mut self, event_bytes: usize, first: i64) {
        self.bytes = Vec::with_capacity(HEAD_BYTES_MAX + event_bytes);
        push_head(&self.header, self.id, &mut self.bytes);
        self.head = self.bytes.len();
        self.first = first;
    }

    /// Ends the message under way; pieces of the same revision follow if it is `torn`.
    fn end(&mut self, torn: bool) {
        if self.events == 0 {
            return;
        }
        if torn {
            push_fragment(&mut self.bytes);
        }
        self.messages.push(Message {
            bytes: std::mem::take(&mut self.bytes).into(),
            head: self.head,
            first: self.first,
            events: std::mem::take(&mut self.events),
            continues: std::mem::replace(&mut self.continues, torn),
        });
    }
}

/// Appends the messages that tell a watcher of this form and id of the events, which are in order
/// and of keys that it watches.
///
/// # Errors
/// If a revision is too long; the messages before it are there.
pub(super) fn compose(
    header: &WatchHeader,
    form: Form,
    id: i64,
    events: &[&Event],
    limits: &HubLimits,
    messages: &mut Vec<Message>,
) -> Result<(), RevisionTooLarge> {
    let taken = || events.iter().filter(|event| form.takes(event));
    let mut left: usize = taken()
        .map(|event| event_length(event, form.previous))
        .sum();
    let mut composer = Composer {
        header: *header,
        id,
        messages,
        bytes: Vec::new(),
        head: 0,
        first: 0,
        events: 0,
        continues: false,
    };
    let mut revision = 0;
    for event in taken() {
        let length = event_length(event, form.previous);
        let new = event.key_value.mod_revision != revision;
        revision = event.key_value.mod_revision;
        if new && composer.bytes.len() >= limits.message_bytes {
            composer.end(false);
        }
        let is_full = composer.bytes.len() + length > limits.fragment_bytes;
        if form.fragment && !new && is_full {
            composer.end(true);
        }
        if composer.events == 0 {
            composer.begin(left.min(limits.message_bytes + length), revision);
        }
        if composer.bytes.len() + length > limits.message_bytes_max {
            return Err(RevisionTooLarge);
        }
        push_event(event, form.previous, &mut composer.bytes);
        composer.events += 1;
        left -= length;
    }
    composer.end(false);
    Ok(())
}

/// The same messages under another id.
pub(super) fn readdress(header: &WatchHeader, id: i64, messages: &[Message]) -> Vec<Message> {
    let readdressed = messages.iter().map(|message| {
        let content = &message.bytes[message.head..];
        let mut bytes = Vec::with_capacity(HEAD_BYTES_MAX + content.len());
        push_head(header, id, &mut bytes);
        let head = bytes.len();
        bytes.extend_from_slice(content);
        Message {
            bytes: bytes.into(),
            head,
            ..message.clone()
        }
    });
    readdressed.collect()
}
