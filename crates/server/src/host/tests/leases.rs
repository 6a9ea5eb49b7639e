//! The stream of keep-alives: in order, together, and bounded.

use etcd::proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse};
use futures_util::stream;

use super::*;

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// Sends keep-alives for the leases 1, 2, ... and gives what comes back, as it comes.
async fn keep_alive(channel: Channel, count: i64) -> tonic::Streaming<LeaseKeepAliveResponse> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let messages = stream::iter((1..=count).map(|id| LeaseKeepAliveRequest { id }));
    let codec = ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
    let path = PathAndQuery::from_static(KEEP_ALIVE);
    let answers = grpc.streaming(tonic::Request::new(messages), path, codec);
    answers.await.unwrap().into_inner()
}

async fn read(answers: &mut tonic::Streaming<LeaseKeepAliveResponse>, count: i64) {
    for id in 1..=count {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (id, 60.min(id)), "in order");
    }
    assert!(
        answers.message().await.unwrap().is_none(),
        "the stream ends"
    );
}

#[test]
fn answers_come_in_the_order_of_the_messages_each_to_its_own() {
    let bench = Bench::start(|_| {});
    bench.client.block_on(async {
        let mut answers = keep_alive(bench.channel(), 1000).await;
        read(&mut answers, 1000).await;
    });
}

#[test]
fn leases_keep_code_and_text_of_their_errors() {
    let bench = Bench::start(|_| {});
    let grant = "/etcdserverpb.Lease/LeaseGrant";
    let request = LeaseGrantRequest::default();
    let error = bench.grpc::<_, LeaseGrantResponse>(grant, request);
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.message(), "etcdserver: requested lease not found");
}

#[test]
fn a_stream_that_is_not_read_stops_being_read() {
    const COUNT: i64 = 40_000;
    let bench = Bench::start(|_| {});
    let address = format!("http://{}", bench.etcd());
    let renewed = || -> i64 {
        let metrics = bench.http(&bench.handle.endpoints().admin, &get("/metrics"));
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| line.strip_prefix("quorate_leases_renewed_total "));
        line.map_or(0, |count| count.trim().parse().unwrap())
    };
    let channel = {
        let _context = bench.client.enter();
        let endpoint = Channel::from_shared(address).unwrap();
        endpoint.initial_stream_window_size(1_000).connect_lazy()
    };
    let mut answers = bench.client.block_on(keep_alive(channel, COUNT));
    // It goes on until the windows are full: then twice the same is counted.
    let mut before = -1;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = renewed();
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    assert!(before < COUNT / 4, "{before} were renewed for nobody");
    let _: RangeResponse = bench.grpc(RANGE, range("k")).unwrap();
    bench.client.block_on(read(&mut answers, COUNT));
}
