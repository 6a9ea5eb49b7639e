//! What a supervisor is told, and what its signals mean.

use std::io;
use std::time::Duration;

/// Sends the one message that supervisors wait for. A name that begins with `@` is abstract: it
/// has no file.
pub(super) fn notify(socket: &std::ffi::OsStr) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let name = socket.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

/// A signal that comes this soon after the first is the same wish: a supervisor tells a process
/// and then its whole group.
pub(super) const ECHO: Duration = Duration::from_secs(1);

/// What a signal to stop means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Stop in order.
    First,
    /// Nothing new.
    Echo,
    /// Stop at once.
    Again,
}

impl Told {
    /// What a signal at `now` means; `first` is when the first one came.
    pub(super) fn at(first: &mut Option<std::time::Instant>, now: std::time::Instant) -> Told {
        match *first {
            None => {
                *first = Some(now);
                Told::First
            }
            Some(first) if now.duration_since(first) < ECHO => Told::Echo,
            Some(_) => Told::Again,
        }
    }
}
