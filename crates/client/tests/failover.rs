//! What a client does when endpoints refuse, vanish or fall silent.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "real sockets and time; a test ends where something is missing"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use etcd::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use quorate_client::{Client, Error, Options};
use stubs::kv_server::{Kv, KvServer};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

mod stubs {
    #![allow(
        clippy::all,
        missing_docs,
        unreachable_pub,
        dead_code,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/server/etcdserverpb.rs"));
}

/// A server that counts calls, and answers all of them in one way.
#[derive(Clone)]
struct Fake {
    calls: Arc<AtomicU32>,
    answer: Answer,
}

#[derive(Clone)]
enum Answer {
    Well,
    Badly(Status),
    Never,
}

impl Fake {
    async fn serve(answer: Answer) -> (String, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Fake {
            calls: Arc::default(),
            answer,
        };
        let calls = fake.calls.clone();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(KvServer::new(fake));
        tokio::spawn(server.serve_with_incoming(incoming));
        (address, calls)
    }

    async fn answer<T: Default>(&self) -> Result<Response<T>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match &self.answer {
            Answer::Well => Ok(Response::new(T::default())),
            Answer::Badly(status) => Err(status.clone()),
            Answer::Never => std::future::pending().await,
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Kv for Fake {
    type RangeStreamStream = tonic::codegen::BoxStream<RangeStreamResponse>;

    async fn range(&self, _: Request<RangeRequest>) -> Reply<RangeResponse> {
        self.answer().await
    }
    async fn range_stream(&self, _: Request<RangeRequest>) -> Reply<Self::RangeStreamStream> {
        Err(Status::unimplemented("not asked for by any test"))
    }
    async fn put(&self, _: Request<PutRequest>) -> Reply<PutResponse> {
        self.answer().await
    }
    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Reply<DeleteRangeResponse> {
        self.answer().await
    }
    async fn txn(&self, _: Request<TxnRequest>) -> Reply<TxnResponse> {
        self.answer().await
    }
    async fn compact(&self, _: Request<CompactionRequest>) -> Reply<CompactionResponse> {
        self.answer().await
    }
}

fn options() -> Options {
    Options {
        try_timeout: Duration::from_millis(300),
        deadline: Duration::from_secs(5),
        ..Options::default()
    }
}

fn client(endpoints: &[&str], options: Options) -> Client {
    Client::new(endpoints, options).unwrap()
}

fn put() -> PutRequest {
    PutRequest {
        key: "key".into(),
        value: "value".into(),
        ..PutRequest::default()
    }
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A server that takes a call in and hangs up.
async fn rude() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut connection) = h2::server::handshake(stream).await {
                let _ = connection.accept().await;
            }
        }
    });
    address
}

/// A server that looks at no call, and says so.
async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        }
    });
    address
}

fn unavailable() -> Answer {
    Answer::Badly(Status::unavailable(etcd::Error::Timeout.text()))
}

fn no_leader() -> Answer {
    Answer::Badly(Status::unavailable(etcd::Error::NoLeader.text()))
}

fn busy() -> Answer {
    Answer::Badly(Status::unknown(etcd::Error::TooManyRequests.text()))
}

#[tokio::test]
async fn a_write_goes_on_where_nobody_listens() {
    let (well, calls) = Fake::serve(Answer::Well).await;
    let client = client(&[&nobody().await, &nobody().await, &well], options());
    client.put(put()).await.unwrap();
    client.clone().put(put()).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_write_goes_on_where_it_was_certainly_not_done() {
    let (well, calls) = Fake::serve(Answer::Well).await;
    let (busy, _) = Fake::serve(busy()).await;
    client(&[&busy, &well], options()).put(put()).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let refusing = refusing().await;
    let client = client(&[&refusing, &well], options());
    client.put(put()).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_write_that_may_have_been_done_is_not_repeated() {
    let (well, calls) = Fake::serve(Answer::Well).await;
    let (unavailable, _) = Fake::serve(unavailable()).await;
    let (leaderless, _) = Fake::serve(no_leader()).await;
    let (silent, _) = Fake::serve(Answer::Never).await;
    for bad in [unavailable, leaderless, silent, rude().await] {
        let client = client(&[&bad, &well], options());
        let before = calls.load(Ordering::Relaxed);
        let error = client.put(put()).await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
        assert_eq!(calls.load(Ordering::Relaxed), before, "sent again");
        client
            .put(put())
            .await
            .expect("the next call goes to the next endpoint");
    }
}

#[tokio::test]
async fn reads_are_repeated_and_writes_where_allowed() {
    let (well, _) = Fake::serve(Answer::Well).await;
    let (unavailable, _) = Fake::serve(unavailable()).await;
    let (leaderless, _) = Fake::serve(no_leader()).await;
    let (silent, _) = Fake::serve(Answer::Never).await;
    for bad in [unavailable, leaderless, silent, rude().await] {
        let endpoints = [bad.as_str(), well.as_str()];
        client(&endpoints, options())
            .range(RangeRequest::default())
            .await
            .unwrap();
        client(&endpoints, options())
            .txn(TxnRequest::default())
            .await
            .unwrap();
        let options = Options {
            retry_writes: true,
            ..options()
        };
        client(&endpoints, options).put(put()).await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let refusal = Answer::Badly(Status::invalid_argument(etcd::Error::KeyEmpty.text()));
    let (refusing, calls) = Fake::serve(refusal).await;
    let (well, _) = Fake::serve(Answer::Well).await;
    let error = client(&[&refusing, &well], options())
        .put(put())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Refused(_)) && error.is(etcd::Error::KeyEmpty),
        "{error:?}"
    );
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_deadline_ends_the_search() {
    let short = Options {
        deadline: Duration::from_millis(300),
        ..options()
    };
    let error = client(&[&nobody().await], short)
        .put(put())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    let (busy, calls) = Fake::serve(busy()).await;
    let error = client(&[&busy], short).put(put()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    let calls = calls.load(Ordering::Relaxed);
    assert!(
        (3..20).contains(&calls),
        "{calls} tries with growing pauses"
    );
    // A repeated write that may have been done once is never reported as not done.
    let repeating = Options {
        retry_writes: true,
        ..short
    };
    let endpoints = [&rude().await[..], &busy];
    let error = client(&endpoints, repeating).put(put()).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
}

#[tokio::test]
async fn endpoints_are_checked() {
    for bad in ["", "host", "https://host:1", "http://", "a b:1"] {
        let error = Client::new([bad], options()).unwrap_err();
        assert!(matches!(error, Error::BadEndpoint(_)), "{bad:?}: {error:?}");
    }
    assert!(Client::new([""; 0], options()).is_err());
    for good in ["localhost:2379", "http://localhost:2379", "[::1]:2379"] {
        Client::new([good], options()).unwrap();
    }
}
