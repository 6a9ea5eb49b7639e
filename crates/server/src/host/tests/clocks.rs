//! Three real nodes, one of which believes that it is tomorrow: what it is asked it does, what it
//! acknowledges is there, and the others say by how much its clock is wrong. On the way: what one
//! node tells of itself can be read through any other one.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Ports that nobody uses, for connections nor packets, and below those that the system draws: they
/// are free until the nodes bind them.
pub(super) fn peers() -> Vec<(String, String)> {
    let free = std::iter::repeat_with(|| fastrand::u16(12_000..32_000)).filter(|port| {
        let address = ("127.0.0.1", *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    });
    let named = free.take(3).enumerate();
    named
        .map(|(index, port)| (format!("n{}", index + 1), format!("127.0.0.1:{port}")))
        .collect()
}

fn started(folder: &Path, peers: &[(String, String)]) -> Vec<Handle> {
    let nodes = peers.iter().map(|(name, _)| {
        let configuration = Configuration {
            name: Some(name.clone()),
            cluster: peers.to_vec(),
            gossip: Some(true),
            ..configuration(&folder.join(name))
        };
        let ahead = if name == "n3" { DAY } else { Duration::ZERO };
        let clock = Clock::start().ahead_by(ahead);
        start_by(clock, configuration, Limits::default(), Node::new).unwrap()
    });
    nodes.collect()
}

pub(super) fn asked(node: &Handle, path: &str) -> serde_json::Value {
    let mut stream = TcpStream::connect(node.endpoints().admin.to_string()).unwrap();
    let answer = exchange(&mut stream, &get(path));
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

/// What `by` sees of the clock of `name`, once it has measured it.
fn clock_of(by: &Handle, name: &str) -> i64 {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let status = asked(by, "/status");
        let members = status["gossip"]["members"].as_array().cloned();
        let mut members = members.unwrap_or_default().into_iter();
        let seen = members.find(|member| member["name"] == name);
        let ahead = seen.and_then(|seen| seen["clock_ahead_milliseconds"].as_i64());
        if let Some(ahead) = ahead {
            return ahead;
        }
        assert!(std::time::Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_clock_that_is_a_day_off_is_named_and_the_cluster_stays_up() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = started(folder.path(), &peers());
    assert!(nodes.iter().all(Handle::wait_until_ready));
    let client = Runtime::new().unwrap();
    let call = |node: &Handle| {
        let _context = client.enter();
        let at = format!("http://{}", node.endpoints().etcd);
        Channel::from_shared(at).unwrap().connect_lazy()
    };
    for (index, node) in nodes.iter().enumerate() {
        let value = format!("v{index}");
        let written = unary::<_, PutResponse>(call(node), PUT, put("k", value.clone()));
        client.block_on(written).unwrap();
        for other in &nodes {
            let read = unary::<_, RangeResponse>(call(other), RANGE, range("k"));
            let read = client.block_on(read).unwrap();
            assert_eq!(read.kvs[0].value, value.as_bytes());
        }
    }
    let day = i64::try_from(DAY.as_millis()).unwrap();
    let near = |seen: i64, expected: i64| (seen - expected).abs() < 900;
    assert!(near(clock_of(&nodes[0], "n3"), day));
    assert!(near(clock_of(&nodes[1], "n3"), day));
    assert!(near(clock_of(&nodes[0], "n2"), 0));
    assert!(near(clock_of(&nodes[2], "n1"), -day));
    assert!(near(clock_of(&nodes[2], "n2"), -day));
    // It counts both others, each once they have been measured often enough.
    let counted = "quorate_gossip_events_total{event=\"clock-apart\"} 2";
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let evidence = asked(&nodes[0], "/evidence/n3");
        assert_eq!(evidence["status"]["name"], "n3");
        let metrics = evidence["metrics"].as_str().unwrap();
        if metrics.contains(counted) {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "both others: {metrics}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    for node in nodes {
        node.shutdown();
        node.wait().unwrap();
    }
}
