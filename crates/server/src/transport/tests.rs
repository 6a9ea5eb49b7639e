//! Connections over the loopback interface, friendly and hostile.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// One side of a connection, as the node's thread would see it.
struct Side {
    transport: Transport,
    events: mpsc::Receiver<PeerEvent>,
    metrics: Metrics,
    address: String,
}

impl Side {
    async fn start(limits: TransportLimits) -> Side {
        Side::start_at("127.0.0.1:0", limits).await
    }

    async fn start_at(address: &str, limits: TransportLimits) -> Side {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, events) = mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let sink: Events = Arc::new(move |event| {
            let _ = sender.lock().unwrap().send(event);
        });
        let metrics = Metrics::default();
        let runtime = Handle::current();
        let (asked, _) = tokio::sync::mpsc::channel(1);
        let others = (asked, tokio::sync::mpsc::channel(1).0);
        let counted = metrics.clone();
        let transport =
            Transport::start(runtime, Some(listener), limits, counted, sink, None, others);
        Side {
            transport,
            events,
            metrics,
            address,
        }
    }

    /// The next event; other tasks run meanwhile.
    fn next(&self) -> PeerEvent {
        tokio::task::block_in_place(|| self.events.recv_timeout(PATIENCE).expect("an event"))
    }

    fn connected(&self) -> (ConnectionId, Option<DialId>, Arc<SendQueue>) {
        match self.next() {
            PeerEvent::Connected {
                connection,
                dial,
                queue,
            } => (connection, dial, queue),
            _ => panic!("expected a connection"),
        }
    }

    fn disconnected(&self) -> (ConnectionId, bool) {
        match self.next() {
            PeerEvent::Disconnected {
                connection,
                by_peer,
            } => (connection, by_peer),
            _ => panic!("expected the end of a connection"),
        }
    }

    fn bodies(&self, count: usize) -> (Vec<Bytes>, usize) {
        let mut all = Vec::new();
        let mut batches = 0;
        while all.len() < count {
            match self.next() {
                PeerEvent::Frames { bodies, .. } => {
                    all.extend(bodies);
                    batches += 1;
                }
                _ => panic!("expected frames"),
            }
        }
        (all, batches)
    }

    fn closed_for(&self, reason: &'static str) -> u64 {
        self.metrics
            .peer_closed
            .get_or_create(&[("reason", reason)])
            .get()
    }

    fn wait_until_closed_for(&self, reason: &'static str) {
        let deadline = Instant::now() + PATIENCE;
        while self.closed_for(reason) == 0 {
            assert!(Instant::now() < deadline, "not closed for {reason}");
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(2)));
        }
    }
}

fn bodies(texts: &[&'static str]) -> Vec<Bytes> {
    texts
        .iter()
        .map(|text| Bytes::from_static(text.as_bytes()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_travel_both_ways_and_many_arrive_as_few_batches() {
    let mut left = Side::start(TransportLimits::default()).await;
    let right = Side::start(TransportLimits::default()).await;
    left.transport.dial(DialId(7), right.address.clone());
    let (_, dial, to_right) = left.connected();
    assert_eq!(dial, Some(DialId(7)));
    let (_, dial, to_left) = right.connected();
    assert_eq!(dial, None);
    let many: Vec<Bytes> = (0..1000u32)
        .map(|i| Bytes::from(i.to_le_bytes().to_vec()))
        .collect();
    to_right.push(&mut many.clone());
    let (received, batches) = right.bodies(1000);
    assert_eq!(received, many);
    assert!(batches <= 50, "{batches} batches for 1000 short frames");
    to_left.push(&mut bodies(&["back", ""]));
    assert_eq!(left.bodies(2).0, bodies(&["back", ""]));
    let long = Bytes::from(vec![7; 4 << 20]);
    to_left.push(&mut vec![long.clone(), Bytes::from_static(b"behind")]);
    assert_eq!(left.bodies(2).0, [long, Bytes::from_static(b"behind")]);
    assert!(right.metrics.peer_received_frames.get() == 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_is_sent_before_a_wanted_end() {
    let mut left = Side::start(TransportLimits::default()).await;
    let right = Side::start(TransportLimits::default()).await;
    left.transport.dial(DialId(1), right.address.clone());
    let (connection, _, queue) = left.connected();
    let _ = right.connected();
    queue.push(&mut bodies(&["last", "words"]));
    queue.finish();
    assert_eq!(right.bodies(2).0, bodies(&["last", "words"]));
    assert!(right.disconnected().1, "ended by the peer");
    assert_eq!(left.disconnected(), (connection, false));
    // The wish to be connected still stands.
    assert_eq!(left.connected().1, Some(DialId(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_up_ends_the_connection_and_the_dialing() {
    let mut left = Side::start(TransportLimits::default()).await;
    let right = Side::start(TransportLimits::default()).await;
    left.transport.dial(DialId(1), right.address.clone());
    let (connection, ..) = left.connected();
    let (accepted, ..) = right.connected();
    left.transport.hang_up(DialId(1));
    assert_eq!(left.disconnected(), (connection, false));
    assert_eq!(right.disconnected(), (accepted, true));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(right.events.try_recv().is_err(), "nobody dials any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_is_found_again_under_a_replaced_address_too() {
    let mut left = Side::start(TransportLimits::default()).await;
    let right = Side::start(TransportLimits::default()).await;
    let address = right.address.clone();
    left.transport.dial(DialId(1), address.clone());
    let first = left.connected().0;
    drop(right);
    assert_eq!(left.disconnected(), (first, true));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let right = Side::start_at(&address, TransportLimits::default()).await;
    let second = left.connected().0;
    assert_ne!(first, second);
    let other = Side::start(TransportLimits::default()).await;
    left.transport.dial(DialId(1), other.address.clone());
    let mut connected = None;
    let mut ended = None;
    for _ in 0..2 {
        match left.next() {
            PeerEvent::Connected { connection, .. } => connected = Some(connection),
            PeerEvent::Disconnected {
                connection,
                by_peer,
            } => ended = Some((connection, by_peer)),
            PeerEvent::Frames { .. } => panic!("nobody sent anything"),
        }
    }
    assert_eq!(ended, Some((second, false)));
    assert!(connected.is_some());
    let _ = (right.connected(), other.connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overflowing_queue_costs_the_connection_even_if_the_writer_is_stuck() {
    let limits = TransportLimits {
        send_queue_bytes: 8 << 20,
        ..TransportLimits::default()
    };
    let side = Side::start(limits).await;
    // This peer never reads.
    let mut peer = TcpStream::connect(&side.address).await.unwrap();
    peer.write_all(&frame::preamble()).await.unwrap();
    let (connection, _, queue) = side.connected();
    for _ in 0..64 {
        queue.push(&mut vec![Bytes::from(vec![0; 1 << 20])]);
    }
    assert_eq!(side.disconnected(), (connection, false));
    assert_eq!(side.closed_for("queue_full"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_look_stops_the_reading() {
    let limits = TransportLimits {
        receive_queue_bytes: 1 << 20,
        ..TransportLimits::default()
    };
    let mut left = Side::start(limits.clone()).await;
    let right = Side::start(limits).await;
    left.transport.dial(DialId(1), right.address.clone());
    let queue = left.connected().2;
    let _ = right.connected();
    let total = 30;
    for _ in 0..total {
        queue.push(&mut vec![Bytes::from(vec![0; 1 << 20])]);
    }
    let PeerEvent::Frames { credit, .. } = right.next() else {
        panic!("expected a frame")
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(right.events.try_recv().is_err(), "read on without credit");
    drop(credit);
    assert_eq!(right.bodies(total - 1).0.len(), total - 1);
}

/// Sends bytes to a fresh side and waits until it has closed the connection for `reason`.
async fn hostile(bytes: &[u8], then_close: bool, reason: &'static str) -> Side {
    let limits = TransportLimits {
        preamble_timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let side = Side::start(limits).await;
    let mut peer = TcpStream::connect(&side.address).await.unwrap();
    peer.write_all(bytes).await.unwrap();
    if then_close {
        // Unread bytes would make the system reset the connection instead of closing it.
        peer.read_exact(&mut [0; frame::PREAMBLE_BYTES])
            .await
            .unwrap();
        drop(peer);
        side.wait_until_closed_for(reason);
    } else {
        side.wait_until_closed_for(reason);
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest).await;
    }
    // The side still serves others.
    let mut friend = Side::start(TransportLimits::default()).await;
    friend.transport.dial(DialId(1), side.address.clone());
    friend.connected().2.push(&mut bodies(&["still there"]));
    loop {
        match side.next() {
            PeerEvent::Frames { bodies, .. } if bodies[0] == "still there" => return side,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_close_a_connection_with_a_counted_reason() {
    let greeted = |rest: &[u8]| [&frame::preamble()[..], rest].concat();
    hostile(b"GET / HTTP/1.1\r\n\r\n", false, "bad_preamble").await;
    hostile(b"", false, "no_preamble").await;
    hostile(b"quorate", false, "no_preamble").await;
    hostile(b"quorate", true, "by_peer").await;
    hostile(&greeted(&[0xff; 64]), false, "oversized").await;
    hostile(&greeted(b"\x04\0\0\0\0\0\0\0abcd"), false, "bad_checksum").await;
    hostile(&greeted(b"\x04\0\0\0\0\0\0\0ab"), true, "truncated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_before_hostile_bytes_still_arrive() {
    let side = Side::start(TransportLimits::default()).await;
    let mut peer = TcpStream::connect(&side.address).await.unwrap();
    let good = [&frame::head(b"good")[..], b"good"].concat();
    let bytes = [&frame::preamble()[..], &good, &good, &[0xff; 8]].concat();
    peer.write_all(&bytes).await.unwrap();
    let (connection, ..) = side.connected();
    assert_eq!(side.bodies(2).0, bodies(&["good", "good"]));
    assert_eq!(side.disconnected(), (connection, false));
    assert_eq!(side.closed_for("oversized"), 1);
}

/// Connects, says what it is, and nothing more.
async fn silent_peer(side: &Side) -> (TcpStream, ConnectionId) {
    let mut peer = TcpStream::connect(&side.address).await.unwrap();
    peer.write_all(&frame::preamble()).await.unwrap();
    (peer, side.connected().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_no_frame_is_closed_and_one_that_did_is_not() {
    let limits = TransportLimits {
        first_frame_timeout: Duration::from_millis(200),
        ..TransportLimits::default()
    };
    let mut left = Side::start(limits.clone()).await;
    let right = Side::start(limits).await;
    let (_peer, silent) = silent_peer(&right).await;
    left.transport.dial(DialId(1), right.address.clone());
    left.connected().2.push(&mut bodies(&["hello"]));
    let friend = right.connected().0;
    assert_eq!(right.bodies(1).0, bodies(&["hello"]));
    assert_eq!(right.disconnected(), (silent, false));
    assert_eq!(right.closed_for("no_frame"), 1);
    assert_ne!(friend, silent);
    // The one that was dialed need not say anything, nor need the one that has.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(right.events.try_recv().is_err(), "a peer was closed");
    assert!(left.events.try_recv().is_err(), "a peer was closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_strangers_do_not_keep_peers_out() {
    let limits = TransportLimits {
        accepted_connections: 2,
        first_frame_timeout: Duration::from_secs(60),
        ..TransportLimits::default()
    };
    let side = Side::start(limits).await;
    let (_first, oldest) = silent_peer(&side).await;
    let (_second, younger) = silent_peer(&side).await;
    for evicted in [oldest, younger] {
        let mut friend = Side::start(TransportLimits::default()).await;
        friend.transport.dial(DialId(1), side.address.clone());
        friend.connected().2.push(&mut bodies(&["hello"]));
        // The old one's end and the new one's beginning come in any order.
        let (mut ended, mut heard) = (None, false);
        while ended.is_none() || !heard {
            match side.next() {
                PeerEvent::Disconnected { connection, .. } => ended = Some(connection),
                PeerEvent::Frames { .. } => heard = true,
                PeerEvent::Connected { .. } => {}
            }
        }
        assert_eq!(ended, Some(evicted));
        // Its connection stays up.
        std::mem::forget(friend);
    }
    assert_eq!(side.closed_for("gave_way"), 2);
    // Now all places are taken by those who have spoken.
    let mut refused = TcpStream::connect(&side.address).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, refused.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    assert_eq!(side.closed_for("no_place"), 1);
}
