//! What a node publishes: who keeps it, and what becomes of a server whose worker fails over it.

use std::sync::Weak;

use base::ClusterId;
use node::hub::{Member, Publication};
use state::{EventBatch, Revision};

use super::*;
use node::group::META;

/// Publishes once, and does nothing else but stop.
struct Publishing(Vec<Publication>);

impl Machine for Publishing {
    fn step(&mut self, _: Instant, _: WallTime, input: Input, out: &mut Vec<Output>) {
        if matches!(input, Input::Shutdown) {
            out.push(Output::Halt(Halt::Stopped));
        }
    }
    fn flush(&mut self, _: Instant, _: WallTime, out: &mut Vec<Output>) {
        out.extend(self.0.drain(..).map(|publication| Output::Publish {
            group: META,
            publication,
        }));
    }
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn metrics(&self) -> node::Metrics {
        node::Metrics::default()
    }
}

fn publication(batches: &Arc<[EventBatch]>, revision: i64, reset: bool) -> Publication {
    Publication {
        member: Member {
            cluster: ClusterId(1),
            node: NodeId(10),
        },
        batches: Arc::clone(batches),
        revision: Revision(revision),
        compacted: Revision(0),
        term: Epoch(2),
        has_leader: true,
        reset,
        access: None,
    }
}

/// Whether nobody has it any more, before patience ends.
fn is_let_go(events: &Weak<[EventBatch]>) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while events.strong_count() > 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    events.strong_count() == 0
}

#[test]
fn without_a_listener_for_clients_nothing_published_is_kept() {
    let temporary = tempfile::tempdir().unwrap();
    let mut configuration = configuration(&temporary.path().join("data"));
    configuration.listen_etcd = Listen::None;
    let batches: Arc<[EventBatch]> = Arc::new([EventBatch {
        revision: Revision(2),
        events: Vec::new(),
    }]);
    let events = Arc::downgrade(&batches);
    let machine = Publishing(vec![publication(&batches, 2, true)]);
    drop(batches);
    let handle = start_hosting(configuration, |_| machine).unwrap();
    assert!(
        is_let_go(&events),
        "it waits for a worker that does not exist"
    );
    handle.shutdown();
    handle.wait().unwrap();
}

#[test]
fn a_worker_that_fails_inside_ends_the_server() {
    let temporary = tempfile::tempdir().unwrap();
    let nothing: Arc<[EventBatch]> = Arc::new([]);
    // The second one leaves out what the keyspace has become: a bug, as its hub finds.
    let machine = Publishing(vec![
        publication(&nothing, 1, true),
        publication(&nothing, 7, false),
    ]);
    let mut limits = Limits::default();
    limits.clients.workers = 1;
    let configuration = configuration(&temporary.path().join("data"));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let handle = start_within(configuration, limits, |_| machine).unwrap();
        let _ = tell.send(handle.wait().unwrap_err().to_string());
    });
    let said = told.recv_timeout(Duration::from_secs(10));
    let said = said.expect("the server goes on with a worker less");
    assert!(said.contains("serving clients has failed inside"), "{said}");
}
