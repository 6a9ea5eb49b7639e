//! How the messages of Paxos are told.

use quorate_consensus::Slots;
use quorate_consensus::message::{Accepted, PaxosBody};

use super::{describe_entries, describe_entry, describe_session, yes_or_no};

pub(super) fn describe(body: &PaxosBody) -> String {
    match body {
        PaxosBody::Prepare { first, occasion } => format!("prepare from {first}, {occasion:?}"),
        PaxosBody::Promise {
            granted,
            first,
            next,
            chosen,
            accepted,
        } => {
            let each = |each: &Accepted| {
                let entry = describe_entry(&each.entry);
                match each.ballot == each.entry.epoch {
                    true => entry,
                    false => format!("{entry} under {}", each.ballot),
                }
            };
            let accepted: Vec<String> = accepted.iter().map(each).collect();
            let more = match next.0 {
                0 => String::new(),
                next => format!(", more from {next}"),
            };
            let granted = yes_or_no(*granted);
            let accepted = accepted.join(", ");
            format!("promise {granted} from {first} [{accepted}] chosen {chosen}{more}")
        }
        PaxosBody::Accept {
            session,
            round,
            chosen,
            last,
            entries,
        } => {
            let entries = describe_entries(entries);
            let session = describe_session(*session);
            format!("accept s{session} r{round} [{entries}] of {last} chosen {chosen}")
        }
        PaxosBody::AcceptReply {
            session,
            round,
            received,
            durable,
            uncertain,
        } => {
            let unsure = uncertain.map_or("", |_| " uncertain");
            let session = describe_session(*session);
            let (durable, received) = (slots(durable), slots(received));
            format!("accepted s{session} r{round} durable {durable} received {received}{unsure}")
        }
        PaxosBody::CatchUp { after, .. } => format!("what is chosen behind {after}?"),
        PaxosBody::Learn {
            chosen, entries, ..
        } => format!("learn [{}] chosen {chosen}", describe_entries(entries)),
    }
}

fn slots(slots: &Slots) -> String {
    let mut text = slots.upto().to_string();
    let mut before = slots.upto();
    for (first, last) in slots.gaps() {
        if before != slots.upto() {
            text += &format!("-{}", first.previous());
        }
        text += &format!(", {}", last.next());
        before = last;
    }
    if before != slots.upto() {
        text += &format!("-{}", slots.highest());
    }
    text
}
