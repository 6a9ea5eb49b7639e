//! What the fuzz targets (`fuzz/`) reach of the server: the decoders that stand between a socket
//! and the machines below. Exists in builds for fuzzing alone (`cfg(fuzzing)`), and in those for
//! tests, so that no change leaves it behind as something that cannot be built.

use bytes::Bytes;

use crate::{authority, gateway, serving, transport};

/// Bytes that a connection brings, cut into pieces of at most `kind / 4 + 1` bytes; `kind % 4` says
/// what they are taken for.
pub fn connection(kind: u8, bytes: &[u8]) {
    let pieces = || bytes.chunks(usize::from(kind / 4) + 1);
    match kind % 4 {
        0 => transport::fuzz(pieces()),
        1 => serving::fuzz(pieces().map(Bytes::copy_from_slice)),
        2 => gateway::fuzz_objects(pieces()),
        _ => authority::fuzz(bytes),
    }
}

/// A call of the gateway with this text, as far as the message that it stands for, and back.
pub fn gateway(call: u8, text: &[u8]) {
    gateway::fuzz_call(usize::from(call), text);
}
