//! Real nodes, embedded: the library as a program would use it, on real files and sockets.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used
)]

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use etcd::proto::etcdserverpb::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse,
};
use quorate_server::configuration::Listen;
use quorate_server::{Configuration, Handle, Server};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

const PATIENCE: Duration = Duration::from_secs(20);

fn configuration(folder: &Path) -> Configuration {
    Configuration {
        data_dir: folder.to_owned(),
        listen_etcd: Listen::Tcp("127.0.0.1:0".into()),
        listen_admin: Listen::None,
        ..Configuration::default()
    }
}

struct Client {
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn new() -> Client {
        Client {
            runtime: tokio::runtime::Runtime::new().unwrap(),
        }
    }

    fn call<Q, A>(&self, node: &Handle, path: &'static str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + 'static,
        A: prost::Message + Default + Send + 'static,
    {
        let address = format!("http://{}", node.endpoints().etcd);
        self.runtime.block_on(async move {
            let channel = Channel::from_shared(address).unwrap().connect_lazy();
            let mut grpc = Grpc::new(channel);
            grpc.ready()
                .await
                .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(path);
            Ok(grpc
                .unary(tonic::Request::new(request), path, codec)
                .await?
                .into_inner())
        })
    }

    fn put(&self, node: &Handle, key: &str, value: &str) -> Result<PutResponse, tonic::Status> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = PutRequest {
            key,
            value,
            ..PutRequest::default()
        };
        self.call(node, "/etcdserverpb.KV/Put", request)
    }

    fn get(&self, node: &Handle, key: &str) -> Result<Option<String>, tonic::Status> {
        let request = RangeRequest {
            key: key.to_owned().into(),
            ..RangeRequest::default()
        };
        let response: RangeResponse = self.call(node, "/etcdserverpb.KV/Range", request)?;
        let value = response.kvs.first().map(|pair| pair.value.to_vec());
        Ok(value.map(|value| String::from_utf8(value).unwrap()))
    }
}

#[test]
fn what_one_node_acknowledged_is_there_after_a_restart() {
    let temporary = tempfile::tempdir().unwrap();
    let client = Client::new();
    for round in 0..3 {
        let node = Server::start(configuration(temporary.path())).unwrap();
        assert!(node.wait_until_ready());
        for earlier in 0..round {
            let key = format!("k{earlier}");
            assert_eq!(
                client.get(&node, &key).unwrap().as_deref(),
                Some("v"),
                "{key}"
            );
        }
        let response = client.put(&node, &format!("k{round}"), "v").unwrap();
        assert_eq!(response.header.unwrap().revision, round + 2);
        node.shutdown();
        node.wait().unwrap();
    }
}

#[test]
fn a_large_range_comes_in_pieces() {
    let temporary = tempfile::tempdir().unwrap();
    let client = Client::new();
    let node = Server::start(configuration(temporary.path())).unwrap();
    assert!(node.wait_until_ready());
    let value = "x".repeat(200 << 10);
    for number in 0..30 {
        client.put(&node, &format!("k{number:02}"), &value).unwrap();
    }
    let request = RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..RangeRequest::default()
    };
    let address = format!("http://{}", node.endpoints().etcd);
    let pieces = client.runtime.block_on(async move {
        let channel = Channel::from_shared(address).unwrap().connect_lazy();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<RangeRequest, RangeStreamResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.KV/RangeStream");
        let request = tonic::Request::new(request);
        let answer = grpc.server_streaming(request, path, codec).await.unwrap();
        let mut answer = answer.into_inner();
        let mut pieces = Vec::new();
        while let Some(message) = answer.message().await.unwrap() {
            pieces.push(message.range_response.unwrap());
        }
        pieces
    });
    assert!(pieces.len() >= 6, "{} pieces", pieces.len());
    assert_eq!(
        pieces.iter().map(|piece| piece.kvs.len()).sum::<usize>(),
        30
    );
    let last = pieces.last().unwrap();
    assert_eq!((last.count, last.more), (30, false));
    assert_eq!(last.header.unwrap().revision, 31);
}

#[test]
fn a_folder_of_another_node_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let node = Server::start(configuration(temporary.path())).unwrap();
    assert!(node.wait_until_ready());
    drop(node);
    let name = Some("other".into());
    let node = Server::start(Configuration {
        name,
        ..configuration(temporary.path())
    })
    .unwrap();
    let error = node.wait().unwrap_err().to_string();
    assert!(error.contains("belongs to the node n1"), "{error}");
}

/// Three addresses that nobody uses at the moment.
fn free_addresses() -> Vec<String> {
    let sockets: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap().to_string())
        .collect()
}

#[test]
fn three_nodes_form_a_cluster_and_go_on_without_one_of_them() {
    let temporary = tempfile::tempdir().unwrap();
    let names = ["n1", "n2", "n3"];
    let cluster: Vec<(String, String)> = names
        .iter()
        .map(|name| (*name).to_owned())
        .zip(free_addresses())
        .collect();
    let start = |name: &str| {
        let own = configuration(&temporary.path().join(name));
        let (name, cluster) = (Some(name.to_owned()), cluster.clone());
        Server::start(Configuration {
            name,
            cluster,
            ..own
        })
        .unwrap()
    };
    let mut nodes: Vec<Handle> = names.iter().map(|name| start(name)).collect();
    assert!(nodes.iter().all(Handle::wait_until_ready));
    let client = Client::new();
    client.put(&nodes[0], "k", "by the first").unwrap();
    for node in &nodes {
        assert_eq!(
            client.get(node, "k").unwrap().as_deref(),
            Some("by the first")
        );
    }
    let gone = nodes.remove(0);
    gone.shutdown();
    gone.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = client.put(&nodes[0], "k", "without the first") {
        assert!(Instant::now() < deadline, "{error}");
    }
    assert_eq!(
        client.get(&nodes[1], "k").unwrap().as_deref(),
        Some("without the first")
    );
    nodes.push(start("n1"));
    assert!(nodes[2].wait_until_ready());
    assert_eq!(
        client.get(&nodes[2], "k").unwrap().as_deref(),
        Some("without the first")
    );
}
