//! Watches, one a stream.

use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::failover::Kind;
use crate::stubs::watch_client::WatchClient;
use crate::{Client, Error};

/// A watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    messages: Streaming<WatchResponse>,
    /// Held so that the stream of requests stays open: a server may take its end for the watch's.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Watch {
    /// The next message; `None` if the server has ended the stream. The first one says that the
    /// watch was made.
    ///
    /// # Errors
    /// The server's, or the connection's. The watch is over then: make another one, from one
    /// revision beyond the last that was seen.
    pub async fn message(&mut self) -> Result<Option<WatchResponse>, Status> {
        self.messages.message().await
    }
}

impl Client {
    /// Watches keys.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unreachable`] if there is no stream. That the watch on it is
    /// refused stands in its first message.
    pub async fn watch(&self, request: WatchCreateRequest) -> Result<Watch, Error> {
        let limit = self.endpoints.options().max_response_bytes;
        let send = move |channel: Channel, request: Request<WatchCreateRequest>| async move {
            let (metadata, extensions, create) = request.into_parts();
            let (sender, mut receiver) = mpsc::channel(1);
            let create = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            sender.try_send(create).expect("nothing is in it yet");
            let requests = stream::poll_fn(move |context| receiver.poll_recv(context));
            let request = Request::from_parts(metadata, extensions, requests);
            let mut stub = WatchClient::new(channel).max_decoding_message_size(limit);
            let answer = stub.watch(request).await?;
            Ok(answer.map(|messages| Watch {
                messages,
                _requests: sender,
            }))
        };
        self.signed(Kind::Read, request, send).await
    }
}
