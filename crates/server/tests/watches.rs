//! Watches against a real embedded node, over a real connection.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used
)]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{
    PutRequest, PutResponse, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
    WatchRequest, WatchResponse,
};
use quorate_server::configuration::Listen;
use quorate_server::{Configuration, Handle, Server};
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// Only something that hangs reaches this.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(folder: &Path) -> Handle {
    let node = Server::start(Configuration {
        data_dir: folder.to_owned(),
        listen_etcd: Listen::Tcp("127.0.0.1:0".into()),
        listen_admin: Listen::None,
        ..Configuration::default()
    })
    .unwrap();
    assert!(node.wait_until_ready());
    node
}

async fn connect(node: &Handle) -> Grpc<Channel> {
    let address = format!("http://{}", node.endpoints().etcd);
    let channel = Channel::from_shared(address).unwrap();
    let mut grpc = Grpc::new(channel.connect().await.unwrap());
    grpc.ready().await.unwrap();
    grpc.max_decoding_message_size(64 << 20)
}

async fn put(grpc: &mut Grpc<Channel>, key: &str, value: impl Into<Bytes>) -> i64 {
    grpc.ready().await.unwrap();
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.into(),
        ..PutRequest::default()
    };
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = ProstCodec::<PutRequest, PutResponse>::default();
    let answer = grpc.unary(tonic::Request::new(request), path, codec).await;
    answer.unwrap().into_inner().header.unwrap().revision
}

struct Watch {
    requests: tokio::sync::mpsc::UnboundedSender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watch {
    async fn open(grpc: &mut Grpc<Channel>, first: WatchCreateRequest) -> Watch {
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        let watch = |request| WatchRequest {
            request_union: Some(request),
        };
        requests
            .send(watch(RequestUnion::CreateRequest(first)))
            .unwrap();
        let mut request = tonic::Request::new(UnboundedReceiverStream::new(receiver));
        let metadata = request.metadata_mut();
        metadata.insert("hasleader", "true".parse().unwrap());
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        grpc.ready().await.unwrap();
        let answers = grpc.streaming(request, path, codec).await;
        Watch {
            requests,
            answers: answers.unwrap().into_inner(),
        }
    }

    fn ask(&self, request: RequestUnion) {
        let request_union = Some(request);
        self.requests.send(WatchRequest { request_union }).unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        let message = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        message.expect("it comes").unwrap().expect("no end")
    }
}

fn prefix(key: &'static str, end: &'static str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn the_past_the_present_progress_and_the_end() {
    let temporary = tempfile::tempdir().unwrap();
    let node = start(temporary.path());
    runtime().block_on(async {
        let mut grpc = connect(&node).await;
        let first = put(&mut grpc, "a/1", "past").await;
        put(&mut grpc, "b", "not asked for").await;
        let mut watch = Watch::open(&mut grpc, prefix("a/", "a0", first)).await;
        let created = watch.next().await;
        assert!(created.created && !created.canceled);
        assert_eq!(created.header.unwrap().revision, first + 1);
        let past = watch.next().await;
        assert_eq!(past.events.len(), 1);
        assert_eq!(past.events[0].kv.as_ref().unwrap().mod_revision, first);
        let now = put(&mut grpc, "a/2", "present").await;
        let present = watch.next().await;
        assert_eq!(present.events[0].kv.as_ref().unwrap().mod_revision, now);
        watch.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        let progress = watch.next().await;
        assert_eq!(progress.watch_id, -1);
        assert_eq!(progress.header.unwrap().revision, now);
        let watch_id = created.watch_id;
        watch.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
        assert!(watch.next().await.canceled);
    });
}

/// 60 MB of events for a client that does not read, and then does. Writers do not wait for it.
#[test]
fn a_client_that_reads_late_gets_everything_once() {
    const VALUE: usize = 200_000;
    const PUTS: usize = 300;
    let temporary = tempfile::tempdir().unwrap();
    let node = start(temporary.path());
    runtime().block_on(async {
        let mut slow = connect(&node).await;
        let mut watch = Watch::open(&mut slow, prefix("k", "l", 0)).await;
        assert!(watch.next().await.created);
        let mut writer = connect(&node).await;
        let mut revisions = Vec::new();
        for number in 0..PUTS {
            let key = format!("k{}", number % 10);
            revisions.push(put(&mut writer, &key, vec![b'v'; VALUE]).await);
        }
        let mut seen = Vec::new();
        while seen.len() < PUTS {
            for event in watch.next().await.events {
                let pair = event.kv.unwrap();
                assert_eq!(pair.value.len(), VALUE);
                seen.push(pair.mod_revision);
            }
        }
        assert_eq!(seen, revisions);
    });
}

/// Other streams of a connection, and other connections, go on.
#[test]
fn nonsense_ends_its_stream_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let node = start(temporary.path());
    runtime().block_on(async {
        let mut grpc = connect(&node).await;
        let mut watch = Watch::open(&mut grpc, prefix("k", "l", 0)).await;
        assert!(watch.next().await.created);
        grpc.ready().await.unwrap();
        // A put whose first field is as long as no watch request has it.
        let request = PutRequest {
            key: vec![0xff; 10].into(),
            ..PutRequest::default()
        };
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<PutRequest, WatchResponse>::default();
        let once = UnboundedReceiverStream::new({
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            sender.send(request).unwrap();
            receiver
        });
        let answer = grpc.streaming(tonic::Request::new(once), path, codec).await;
        let status = match answer {
            Ok(answer) => answer.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(status.code(), tonic::Code::Internal, "{status}");
        put(&mut grpc, "k", "still here").await;
        assert_eq!(watch.next().await.events.len(), 1);
    });
}
