//! Clusters of real processes that lose a node for good, or have one emptied, while clients write
//! to many keyspaces. What must happen is waited for; what must not be lost is looked for.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts processes and threads"
)]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate::local::{HANG, LocalCluster};
use serde_json::{Value, json};
use support::{quorate, serving};

const KEYSPACES: usize = 6;

fn space(index: usize) -> String {
    format!("space-{index}")
}

/// Asks a node by the gateway, in a keyspace; the answer if it is a success.
fn ask(endpoint: &str, keyspace: &str, path: &str, body: &Value) -> Result<Value, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(endpoint).map_err(failed)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .map_err(failed)?;
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {endpoint}\r\nQuorate-Keyspace: {keyspace}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("a broken answer")?;
    let begin = body.find('{').unwrap_or(0);
    let end = body.rfind('}').map_or(body.len(), |at| at + 1);
    match head.starts_with("HTTP/1.1 200") {
        true => serde_json::from_str(&body[begin..end]).map_err(|error| error.to_string()),
        false => Err(format!("{head}: {body}")),
    }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for bytes in text.as_bytes().chunks(3) {
        let mut group = [0; 3];
        group[..bytes.len()].copy_from_slice(bytes);
        let number = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            let index = (number >> (18 - 6 * digit)) & 63;
            match digit <= bytes.len() {
                true => encoded.push(char::from(DIGITS[index as usize])),
                false => encoded.push('='),
            }
        }
    }
    encoded
}

/// Writes one key after another into a keyspace, through one node after another.
struct Writer {
    thread: JoinHandle<Vec<u64>>,
    stopped: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    /// What clients were told instead of an answer.
    failures: Arc<Mutex<Vec<String>>>,
}

impl Writer {
    fn start(keyspace: String, endpoints: Vec<String>) -> Writer {
        let stopped = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let (stop, count, errors) = (
            Arc::clone(&stopped),
            Arc::clone(&acknowledged),
            Arc::clone(&failures),
        );
        let thread = std::thread::spawn(move || {
            let mut told = Vec::new();
            for number in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let endpoint = &endpoints[number as usize % endpoints.len()];
                let pair = json!({
                    "key": base64(&format!("k{number:06}")),
                    "value": base64(&format!("v{number}")),
                });
                match ask(endpoint, &keyspace, "/v3/kv/put", &pair) {
                    Ok(_) => {
                        told.push(number);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(reason) => {
                        let text = format!("{number} through {endpoint}: {reason}");
                        errors.lock().unwrap().push(text);
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            told
        });
        Writer {
            thread,
            stopped,
            acknowledged,
            failures,
        }
    }

    fn more(&self, count: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        let waiting = Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < goal {
            assert!(waiting.elapsed() < HANG, "writes have stopped");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(self) -> Vec<u64> {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Makes the keyspaces, and begins to write into each.
fn writers(cluster: &LocalCluster) -> Vec<Writer> {
    let admin = cluster.nodes()[0].admin.clone();
    let after = ["--replace-after", "3s", "--admin", &admin];
    quorate(["placement", "set"].iter().chain(&after)).succeeded();
    let started = (0..KEYSPACES).map(|index| {
        let name = space(index);
        let engine = ["raft", "paxos"][index % 2];
        let create = [
            "keyspace", "create", &name, "--engine", engine, "--admin", &admin,
        ];
        quorate(create).succeeded();
        Writer::start(name, cluster.endpoints())
    });
    let started: Vec<Writer> = started.collect();
    started.iter().for_each(|writer| writer.more(20));
    started
}

/// Waits until no keyspace moves, and none is on this node.
fn wait_until_off(cluster: &LocalCluster, through: usize, node: &str) -> Value {
    let admin = &cluster.nodes()[through].admin;
    let waiting = Instant::now();
    loop {
        let text = quorate(["keyspace", "list", "--json", "--admin", admin]).succeeded();
        let found: Value = serde_json::from_str(&text).unwrap();
        let all = found.as_array().unwrap().iter();
        let mut others = all.filter(|each| each["group"] != 0);
        let is_off = |each: &Value| {
            let replicas = each["replicas"].as_array().unwrap();
            replicas.len() == 3 && !replicas.iter().any(|replica| replica == node)
        };
        if others.all(|each| each["moving"].is_null() && is_off(each)) {
            return found;
        }
        assert!(waiting.elapsed() < HANG, "still on {node}: {text}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every acknowledged write is there, through each of these nodes.
fn nothing_is_lost(cluster: &LocalCluster, nodes: &[usize], writers: Vec<Writer>) {
    for (index, writer) in writers.into_iter().enumerate() {
        let told = writer.stop();
        assert!(told.len() > 40, "{} writes", told.len());
        for node in nodes {
            let everything = json!({ "key": base64("k"), "range_end": base64("l") });
            let endpoint = &cluster.nodes()[*node].etcd;
            let found = ask(endpoint, &space(index), "/v3/kv/range", &everything).unwrap();
            let pairs = found["kvs"].as_array().unwrap();
            let has = |number: &u64| {
                let key = base64(&format!("k{number:06}"));
                let value = base64(&format!("v{number}"));
                pairs
                    .iter()
                    .any(|pair| pair["key"] == key && pair["value"] == value)
            };
            let lost: Vec<&u64> = told.iter().filter(|number| !has(number)).collect();
            assert!(lost.is_empty(), "{} lost {lost:?} of {}", node, told.len());
        }
    }
}

#[tokio::test]
async fn a_node_that_does_not_return_is_replaced() {
    let (mut cluster, _folder) = serving(5).await;
    let writers = writers(&cluster);
    let victim = cluster.leader().await.unwrap();
    let through = (victim + 1) % 5;
    cluster.kill(victim);
    wait_until_off(&cluster, through, &format!("n{}", victim + 1));
    writers.iter().for_each(|writer| writer.more(20));
    // One more dies: all that is there once stands on three others.
    let other = (victim + 2) % 5;
    cluster.kill(other);
    writers.iter().for_each(|writer| writer.more(20));
    let left: Vec<usize> = (0..5)
        .filter(|node| ![victim, other].contains(node))
        .collect();
    nothing_is_lost(&cluster, &left, writers);
}

#[tokio::test]
async fn a_node_is_emptied_without_an_error() {
    let (cluster, _folder) = serving(5).await;
    let writers = writers(&cluster);
    let node = cluster.leader().await.unwrap();
    let name = format!("n{}", node + 1);
    let admin = cluster.nodes()[(node + 1) % 5].admin.clone();
    let said = quorate(["node", "drain", &name, "--admin", &admin]).succeeded();
    assert!(said.contains("is empty"), "{said}");
    wait_until_off(&cluster, (node + 1) % 5, &name);
    assert_ne!(cluster.leader().await.unwrap(), node);
    writers.iter().for_each(|writer| writer.more(20));
    for writer in &writers {
        let failures = writer.failures.lock().unwrap();
        assert!(failures.is_empty(), "calls failed: {failures:#?}");
    }
    quorate(["node", "undrain", &name, "--admin", &admin]).succeeded();
    nothing_is_lost(&cluster, &[0, 1, 2, 3, 4], writers);
}
