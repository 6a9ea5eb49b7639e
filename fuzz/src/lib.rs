//! What is fuzzed: every decoder that is fed by a network or a disk.
//!
//! | target | fed by |
//! |---|---|
//! | [`peer_frames`], [`engine_messages`] | other nodes |
//! | [`commands`] | the log, written by this or another node |
//! | [`etcd_requests`], [`etcd_transactions`], [`watches`] | clients |
//! | [`connections`] | whoever connects: frames of peers, gRPC, tokens, streams of JSON |
//! | [`gateway`] | clients, as JSON |
//! | [`journal`], [`checkpoints`] | the disk, or a node that sends its checkpoint |
//! | [`gossip`] | anybody who can send a packet |
//!
//! Hostile bytes must be refused, never panic, and never take memory out of proportion. What is
//! decoded is used, where using it is part of taking it in: a request is planned, executed and
//! read. What can be encoded again must come out equal. HTTP and TLS are libraries', with fuzzing
//! of their own.
//!
//! Checksums are switched off in these builds (`base::checksum`): what a fuzzer changes would never
//! get past one.

pub mod clients;
pub mod machines;
pub mod seeds;

#[cfg(feature = "server")]
pub use clients::{connections, gateway};
pub use clients::{etcd_requests, etcd_transactions, watches};
pub use machines::{checkpoints, commands, engine_messages, gossip, journal, peer_frames};

use bytes::Bytes;

/// The first byte chooses, the others are the input.
pub(crate) fn chosen(bytes: &[u8]) -> (u8, Bytes) {
    match bytes.split_first() {
        Some((first, rest)) => (*first, Bytes::copy_from_slice(rest)),
        None => (0, Bytes::new()),
    }
}
