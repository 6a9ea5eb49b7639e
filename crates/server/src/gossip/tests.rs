//! Members over real sockets of this machine: they find each other, notice who is gone, and bear
//! strangers.

use std::net::Ipv4Addr;
use std::time::Duration;

use base::{ClusterId, NodeId};
use cluster::gossip::config::Config;
use cluster::gossip::member::State;
use cluster::gossip::seal::Key;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::limits::TransportLimits;
use crate::metrics::Metrics;
use crate::transport::Transport;

/// Quick enough for a test; the rules are the same.
fn config() -> Config {
    Config {
        probe_interval: Duration::from_millis(200),
        probe_timeout: Duration::from_millis(100),
        gossip_interval: Duration::from_millis(20),
        ..Config::local_network()
    }
}

struct One {
    handle: Handle,
    view: watch::Receiver<View>,
    address: SocketAddr,
    _transport: Transport,
}

async fn means_of(index: u64) -> (Startup, Means, watch::Receiver<View>, Transport) {
    // The system draws a port for connections; packets of another test may go there.
    let (listener, packets) = loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        if let Ok(packets) = UdpSocket::bind(address).await {
            break (listener, packets);
        }
    };
    let address = listener.local_addr().unwrap();
    let startup = Startup {
        config: config(),
        cluster: ClusterId(1),
        node: NodeId(index),
        name: format!("n{index}"),
        address,
        start: 1,
        process: index,
        facts: Facts::default(),
        keys: Keys(vec![Key::new([7; 32])]),
        seed: index,
    };
    let limits = TransportLimits::default();
    let (asked, exchanges) = mpsc::channel(8);
    let transport = Transport::start(
        tokio::runtime::Handle::current(),
        Some(listener),
        limits.clone(),
        Metrics::default(),
        Arc::new(|_| panic!("no peer connects")),
        None,
        (asked, mpsc::channel(1).0),
    );
    let (view, seen) = watch::channel(View::default());
    let means = Means {
        packets,
        exchanges,
        asker: Asker { limits, tls: None },
        clock: Clock::start(),
        limits: GossipLimits::default(),
        metrics: GossipMetrics::default(),
        view,
    };
    (startup, means, seen, transport)
}

async fn member(index: u64, seeds: &[SocketAddr]) -> One {
    let (startup, means, seen, transport) = means_of(index).await;
    let address = startup.address;
    let handle = start(startup, means);
    let seeds = seeds.iter().map(|seed| (*seed, seed.to_string()));
    assert!(handle.tell(Command::Join(seeds.collect())));
    One {
        handle,
        view: seen,
        address,
        _transport: transport,
    }
}

/// Waits until `who` sees this; only a hang reaches the limit.
async fn wait_for(who: &One, sees: impl Fn(&[Member]) -> bool) {
    let mut view = who.view.clone();
    let seen = view.wait_for(|view| sees(&view.members));
    let seen = timeout(Duration::from_secs(60), seen).await;
    seen.expect("in time").expect("the member runs");
}

fn are(states: &[State]) -> impl Fn(&[Member]) -> bool {
    let states = states.to_vec();
    move |members| {
        let seen = members.iter().map(|member| member.state);
        seen.eq(states.iter().copied())
    }
}

#[tokio::test]
async fn members_find_each_other_and_notice_who_dies_and_who_leaves() {
    use State::{Alive, Dead, Left};
    let one = member(1, &[]).await;
    let two = member(2, &[one.address]).await;
    let three = member(3, &[one.address]).await;
    for who in [&one, &two, &three] {
        wait_for(who, are(&[Alive, Alive, Alive])).await;
    }
    drop(two);
    for who in [&one, &three] {
        wait_for(who, are(&[Alive, Dead, Alive])).await;
    }
    wait_for(&one, |members| members[2].measured.is_some()).await;
    three.handle.leave().await;
    wait_for(&one, are(&[Alive, Dead, Left])).await;
    let facts = Facts {
        load_thousandths: 5,
        ..Facts::default()
    };
    assert!(one.handle.tell(Command::Facts(facts.clone())));
    let four = member(4, &[one.address]).await;
    wait_for(&four, |members| {
        members.iter().any(|member| member.facts == facts)
    })
    .await;
}

#[tokio::test]
async fn strangers_are_borne() {
    use tokio::io::AsyncWriteExt as _;
    let one = member(1, &[]).await;
    let noise = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for length in 0..200usize {
        let packet: Vec<u8> = (0..length).map(|byte| (byte * 7) as u8).collect();
        noise.send_to(&packet, one.address).await.unwrap();
    }
    let asker = Asker {
        limits: TransportLimits::default(),
        tls: None,
    };
    let (at, patience) = (one.address.to_string(), Duration::from_secs(60));
    let asked = asker.ask(&at, &at, Subject::Gossip, b"not gossip", patience);
    assert!(asked.await.is_err(), "let go without an answer");
    // One announces more than it may, one says nothing, one goes in the middle.
    let mut greedy = TcpStream::connect(one.address).await.unwrap();
    greedy.write_all(b"quorate?").await.unwrap();
    greedy.write_all(&[0xff; 9]).await.unwrap();
    let _silent = TcpStream::connect(one.address).await.unwrap();
    let _two = member(2, &[one.address]).await;
    wait_for(&one, are(&[State::Alive, State::Alive])).await;
}

#[tokio::test]
async fn garbage_neither_copies_the_roster_nor_silences_what_matters() {
    let (startup, means, mut view, _transport) = means_of(1).await;
    let (mut carrier, _exchanges, _ended) = carrier(startup, means);
    assert!(carrier.step(Input::Deadline));
    carrier.show(carrier.clock.now());
    view.mark_unchanged();
    for port in 1..500 {
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let bytes = Bytes::from_static(b"garbage");
        carrier.step(Input::Packet { from, bytes });
    }
    assert!(!carrier.is_stale, "nobody has changed");
    let said: usize = carrier.named.values().map(BTreeMap::len).sum();
    assert_eq!(said, 1, "one line for all of it");
    let (now, two) = (carrier.clock.now(), || "2".to_owned());
    assert!(carrier.is_to_be_named(now, "denied", two()));
    assert!(!carrier.is_to_be_named(now, "denied", two()), "once");
    // Members can be made up where packets are not sealed.
    for node in 2..500 {
        carrier.report(now, &Event::Joined(NodeId(node)));
        carrier.report(now, &Event::Died(NodeId(node)));
    }
    assert_eq!(carrier.named["joined"].len(), carrier.limits.named);
    assert_eq!(carrier.named["died"].len(), carrier.limits.named);
}

#[tokio::test]
async fn many_changes_are_shown_together() {
    let (startup, mut means, mut view, _transport) = means_of(1).await;
    means.limits.view_pause = Duration::from_secs(3600);
    means.limits.view_interval = Duration::from_secs(3600);
    let (mut carrier, _exchanges, _ended) = carrier(startup, means);
    carrier.show(carrier.clock.now());
    view.mark_unchanged();
    carrier.is_stale = true;
    carrier.step(Input::Deadline);
    assert!(!view.has_changed().unwrap(), "not yet");
    carrier.limits.view_pause = Duration::ZERO;
    carrier.step(Input::Deadline);
    assert!(view.has_changed().unwrap() && !carrier.is_stale);
}
