//! Dialing, and dialing again: the wait doubles after each failure, with jitter so that the nodes
//! of a cluster do not dial in step, and begins anew after a connection that lasted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use base::Random;
use node::DialId;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use super::connection::{self, Closed};
use super::stream::PeerStream;
use crate::limits::TransportLimits;
use crate::tls::Tls;

/// Keeps a connection to `address` until `stop` (its sender dropped).
pub(super) async fn keep(
    dial: DialId,
    address: String,
    shared: Arc<Shared>,
    mut stop: oneshot::Receiver<()>,
) {
    let limits = &shared.limits;
    let mut random = Random::from_seed(crate::seed::from_system());
    let mut backoff = limits.first_backoff;
    let mut failures = 0u64;
    loop {
        let connected = tokio::select! {
            connected = connect_secured(&address, &shared) => connected,
            _ = &mut stop => return,
        };
        match connected {
            Ok(stream) => {
                let since = Instant::now();
                // Whom this node has dialed may take its time.
                let has_spoken = AtomicBool::new(true);
                let running = connection::run(stream, Some(dial), &has_spoken, &shared, &mut stop);
                let closed = running.await;
                if closed == Closed::Stopped {
                    return;
                }
                tracing::debug!(%address, reason = closed.label(), "a peer's connection ended");
                // One that ends at once may do so again: it does not count as a success.
                if since.elapsed() > limits.longest_backoff {
                    backoff = limits.first_backoff;
                }
                failures = 0;
            }
            Err(error) => {
                shared.metrics.peer_failures.inc();
                if failures == 0 {
                    tracing::info!(%address, %error, "a peer cannot be reached; trying on");
                } else {
                    tracing::debug!(%address, %error, failures, "a peer cannot be reached");
                }
                failures += 1;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(backoff, &mut random)) => {}
            _ = &mut stop => return,
        }
        backoff = (backoff * 2).min(limits.longest_backoff);
    }
}

/// Between half of the wait and all of it.
fn jittered(wait: Duration, random: &mut Random) -> Duration {
    let half = wait / 2;
    let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX - 1);
    half + Duration::from_nanos(random.below(spread + 1))
}

/// Connects, and speaks TLS if that is spoken here.
async fn connect_secured(address: &str, shared: &Shared) -> io::Result<PeerStream> {
    let longest = shared.limits.connect_timeout;
    let begun = Instant::now();
    let stream = connect(address, longest).await?;
    let label = [("To", address.to_owned())];
    let round_trips = &shared.metrics.peer_round_trip_seconds;
    let taken = begun.elapsed().as_secs_f64();
    round_trips.get_or_create(&label).observe(taken);
    secure(address, stream, &shared.limits, shared.tls.as_deref()).await
}

/// Speaks TLS over a connection that is up, if that is spoken here.
pub(super) async fn secure(
    address: &str,
    stream: TcpStream,
    limits: &TransportLimits,
    tls: Option<&Tls>,
) -> io::Result<PeerStream> {
    connection::set_up(&stream, limits)?;
    let Some(tls) = tls else {
        return Ok(PeerStream::Plain(stream));
    };
    let secured = timeout(limits.connect_timeout, tls.connect_peer(address, stream)).await;
    let secured = secured.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(PeerStream::Secured(Box::new(secured)))
}

/// Connects to the first address behind a name that answers. The name is resolved each time,
/// because a node that moved keeps its name, not its address.
pub(super) async fn connect(address: &str, longest: Duration) -> io::Result<TcpStream> {
    let too_late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let resolved = timeout(longest, tokio::net::lookup_host(address))
        .await
        .map_err(too_late)??;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in resolved {
        match timeout(longest, TcpStream::connect(candidate))
            .await
            .map_err(too_late)
        {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) | Err(error) => failure = error,
        }
    }
    Err(failure)
}
