//! Sockets that are visited a few times a second instead of being watched.
//!
//! ```text
//!   watched:   a packet ─▶ the thread wakes ─▶ one read ─▶ a turn          for each packet
//!   visited:   packet, packet, …  every 100 ms: one read of each ─▶ one turn   for all of them
//! ```
//!
//! A client that keeps hundreds of leases alive sends a keep-alive every few milliseconds. None is
//! urgent, the node gathers them anyway, and yet each would wake a thread that sleeps: a third of
//! what ten thousand keep-alives a second cost was that. So a connection over which nothing but
//! keep-alives has come for a while, and many of them, is taken from the thread's list of sockets
//! and read at moments that are the same for all such connections. Anything else that comes, or is
//! to be sent, puts it back at once; that first request has waited for the visit, the next ones do
//! not. So do more bytes than keep-alives need: a large answer whose client makes room piece by
//! piece must not wait for a visit with each piece, nor may a client that sends without end keep
//! the thread with its connection (the runtime sees to that for sockets that it watches).
//!
//! Only plain TCP is visited: what a TLS connection has to do on its own account is not known here.

use std::cell::Cell;
use std::future::Future as _;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::limits::VisitLimits;
use crate::node_loop::Clock;

/// So much is read at a time; a visit goes on until nothing is left, or a visit's bytes are read.
const READ_BYTES: usize = 4096;

/// A visit's bytes: some two thousand keep-alives. Who sends more is watched again.
const VISIT_BYTES: usize = 64 * 1024;

/// A socket that nobody watches.
#[derive(Debug)]
pub(crate) struct Visited {
    socket: std::net::TcpStream,
    /// So many bytes may still be read: none before the moment of a visit has come, and after
    /// nothing was left.
    may_read_bytes: usize,
    /// A visit has read all that it may, and there may be more.
    is_flooded: bool,
}

impl Visited {
    /// `socket` does not block.
    pub(super) fn new(socket: std::net::TcpStream) -> Visited {
        Visited {
            socket,
            may_read_bytes: 0,
            is_flooded: false,
        }
    }

    /// Lets it be read.
    pub(super) fn visit(&mut self) {
        self.may_read_bytes = VISIT_BYTES;
    }

    /// Whether more comes than a visit reads: it is to be watched again.
    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded
    }

    /// The socket, to be watched again.
    pub(super) fn into_inner(self) -> std::net::TcpStream {
        self.socket
    }

    /// Writes what the socket takes at once.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl AsyncRead for Visited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever drives the connection wakes it for the next visit.
        if self.may_read_bytes == 0 {
            return Poll::Pending;
        }
        let room = buffer.remaining().min(READ_BYTES).min(self.may_read_bytes);
        let unfilled = buffer.initialize_unfilled_to(room);
        loop {
            match self.socket.read(unfilled) {
                Ok(count) => {
                    self.may_read_bytes -= count;
                    self.is_flooded = self.may_read_bytes == 0;
                    if count < room {
                        // There was no more, or this is the end.
                        self.may_read_bytes = 0;
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.may_read_bytes = 0;
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Visited {
    /// What would have to wait is an error here: the socket is to be watched then.
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(std::net::Shutdown::Write))
    }
}

/// What has come over a connection, and gone, since somebody looked.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    patient: Cell<u32>,
    is_urgent: Cell<bool>,
}

impl Traffic {
    /// A message has come that can wait.
    pub(super) fn patient(&self) {
        self.patient.set(self.patient.get().saturating_add(1));
    }

    /// Something else has come, or is to be sent.
    pub(super) fn urgent(&self) {
        self.is_urgent.set(true);
    }

    /// How many messages could wait; `None` if there was anything else.
    fn take(&self) -> Option<u32> {
        let patient = self.patient.take();
        (!self.is_urgent.take()).then_some(patient)
    }
}

/// What a connection's driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visiting {
    /// Go on as before.
    Unchanged,
    /// Watch the socket no longer.
    Begin,
    /// Read it now.
    Visit,
    /// Watch it again.
    End,
}

/// Decides whether a connection is visited, and when.
pub(super) struct Visits {
    limits: VisitLimits,
    clock: Clock,
    /// When counting began.
    since: Instant,
    /// What had been read and written then.
    bytes_before: u64,
    /// Rings at the next visit, while there are visits.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Visits {
    pub(super) fn new(limits: &VisitLimits, clock: Clock) -> Visits {
        Visits {
            limits: *limits,
            clock,
            since: clock.now(),
            bytes_before: 0,
            alarm: None,
        }
    }

    /// Asked whenever the connection's task runs, before it reads. `moved_bytes` have been read and
    /// written since it began.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        traffic: &Traffic,
        moved_bytes: u64,
    ) -> Visiting {
        self.poll_at(self.clock.now(), context, traffic, moved_bytes)
    }

    fn poll_at(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        traffic: &Traffic,
        moved_bytes: u64,
    ) -> Visiting {
        if let Some(alarm) = &mut self.alarm {
            if traffic.is_urgent.get() {
                return self.end(now, traffic);
            }
            if alarm.as_mut().poll(context).is_pending() {
                return Visiting::Unchanged;
            }
            if now.since(self.since) >= self.limits.window {
                self.since = now;
                let fewest = self.limits.fewest / 2;
                if !self.is_patient(fewest, traffic, moved_bytes) {
                    return self.end(now, traffic);
                }
            }
            self.set_alarm(now, context);
            return Visiting::Visit;
        }
        let watched_for = now.since(self.since);
        if watched_for < self.limits.window {
            return Visiting::Unchanged;
        }
        self.since = now;
        let is_lively = watched_for < self.limits.window * 2;
        let is_patient = self.is_patient(self.limits.fewest, traffic, moved_bytes);
        if is_lively && is_patient {
            self.set_alarm(now, context);
            return Visiting::Begin;
        }
        Visiting::Unchanged
    }

    /// Whether so many messages have come that can wait, and nothing besides them.
    fn is_patient(&mut self, fewest: u32, traffic: &Traffic, moved_bytes: u64) -> bool {
        let moved = moved_bytes - std::mem::replace(&mut self.bytes_before, moved_bytes);
        let Some(count) = traffic.take() else {
            return false;
        };
        count >= fewest && moved <= u64::from(count) * self.limits.bytes_each
    }

    /// The socket is watched again.
    fn end(&mut self, now: Instant, traffic: &Traffic) -> Visiting {
        let _ = traffic.take();
        self.since = now;
        self.alarm = None;
        Visiting::End
    }

    /// At the next moment that is one for all connections of this server.
    fn set_alarm(&mut self, now: Instant, context: &mut Context<'_>) {
        let interval = nanoseconds(self.limits.interval).max(1);
        let next = Instant((now.0 / interval + 1) * interval);
        let next = tokio::time::Instant::from_std(self.clock.moment(next));
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        alarm.as_mut().reset(next);
        if alarm.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
