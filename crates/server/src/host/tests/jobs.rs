//! Reads that run elsewhere, on a whole server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use node::Job;

use super::*;
use crate::node_loop::Asked;

/// Has every read run elsewhere, where it takes until nobody waits for it.
struct Offloading {
    /// How many calls were given up; each job that is there holds it.
    forgotten: Arc<AtomicUsize>,
    said_ready: bool,
}

impl Machine for Offloading {
    fn step(&mut self, _: Instant, _: WallTime, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Call { id, .. } => {
                let held = Arc::clone(&self.forgotten);
                let job = Job::new(move |wanted| {
                    while wanted() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    drop(held);
                    Answer::Etcd(Err(etcd::Error::RequestCanceled))
                });
                out.push(Output::Offload { id, job });
            }
            Input::Forget { .. } => {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
            }
            Input::JobDone { .. } => {}
            Input::Shutdown => out.push(Output::Halt(Halt::Stopped)),
            other => panic!("nothing brings about {other:?}"),
        }
    }

    fn flush(&mut self, _: Instant, _: WallTime, out: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.said_ready, true) {
            out.push(Output::Ready);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn metrics(&self) -> node::Metrics {
        node::Metrics::default()
    }
}

/// They went on, and those behind them began, long after their clients had given up.
#[test]
fn a_read_lasts_no_longer_than_its_client_waits() {
    const CALLS: usize = 5;
    let mut limits = Limits::default();
    limits.node.jobs = 2;
    let forgotten = Arc::new(AtomicUsize::new(0));
    let of_machine = Arc::clone(&forgotten);
    let temporary = tempfile::tempdir().unwrap();
    let configuration = configuration(&temporary.path().join("data"));
    let handle = start_within(configuration, limits, move |_| Offloading {
        forgotten: of_machine,
        said_ready: false,
    });
    let handle = handle.unwrap();
    assert!(handle.wait_until_ready());
    let wait_for = |jobs: usize, given_up: usize, what: &str| {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // This test and the machine hold it as well.
        while Arc::strong_count(&forgotten) != 2 + jobs
            || forgotten.load(Ordering::Relaxed) != given_up
        {
            assert!(std::time::Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let client = Runtime::new().unwrap();
    let channel = {
        let _context = client.enter();
        let address = format!("http://{}", handle.endpoints().etcd);
        Channel::from_shared(address).unwrap().connect_lazy()
    };
    let ask = || {
        let asked = unary::<_, RangeResponse>(channel.clone(), RANGE, range("k"));
        client.spawn(asked)
    };
    let calls: Vec<_> = (0..CALLS).map(|_| ask()).collect();
    wait_for(CALLS, 0, "every call has its job");
    calls.iter().for_each(|call| call.abort());
    wait_for(0, CALLS, "no call has left a job behind");

    // Given up in the very pass in which the job is made.
    let (id, call) = (CallId(1 << 20), etcd::Request::Range(range("k")));
    let call = Call::Etcd(call);
    let asked = vec![Asked::Call { id, call }, Asked::Forget(id)];
    handle.events.send(Event::Asked(asked)).unwrap();
    wait_for(0, CALLS + 1, "it has left none behind either");
    let _last = ask();
    wait_for(1, CALLS + 1, "there is room again");
}
