//! As much of HTTP/2 and gRPC as a load driver needs, and nothing that can wait: bytes in, events
//! and bytes out.
//!
//! ```text
//!   received bytes ──> Connection::receive ──> Event (message, end of a stream), one by one
//!   open, send, cancel ──> Connection ──> output: what is to be written, in one piece
//! ```
//!
//! Written here, and for this tool only, because a driver's own work hides the server's: with the
//! library that servers use, a call cost four times as much (docs/decisions/0008). What it leaves
//! out: server push, priorities, trailers and tables of the client, TLS.

mod connection;
mod fields;
mod frame;

pub(crate) use connection::{Connection, Event, Stream};
