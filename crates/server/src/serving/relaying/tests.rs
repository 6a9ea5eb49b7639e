//! What a client sends, on its way to one node after another.

use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;

use super::*;

/// A node that answers a call at once, and reads what is sent once it may; returns what came.
async fn node(io: DuplexStream, may_read: oneshot::Receiver<()>) -> Vec<u8> {
    let mut connection = h2::server::handshake(io).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let _answer: SendStream<Bytes> = respond.send_response(Response::new(()), false).unwrap();
    let mut body = request.into_body();
    let read = async {
        may_read.await.unwrap();
        let mut come = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            come.extend_from_slice(&piece);
        }
        come
    };
    tokio::select! {
        come = read => come,
        _ = connection.accept() => panic!("the connection has ended before the call"),
    }
}

/// The second node's answer began while what the first had been sent in vain was being sent
/// again, of which its window did not take all at once. The rest was forgotten.
#[tokio::test]
async fn what_was_sent_in_vain_is_sent_again_to_its_end() {
    let pieces: Vec<Bytes> = (0..3).map(|number| vec![number; 40_000].into()).collect();
    let whole = pieces.concat();
    let came = Came { pieces, rest: None };
    let body = RefCell::new(Body::new(came, 1 << 20));
    for is_refused in [true, false] {
        let (ours, theirs) = duplex(1 << 20);
        let (let_read, may_read) = oneshot::channel();
        let node = tokio::spawn(node(theirs, may_read));
        let (mut requests, connection) = h2::client::handshake(ours).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://node/").body(()).unwrap();
        let (answer, send) = requests.send_request(request, false).unwrap();
        let sending = send_body(&body, send);
        tokio::pin!(sending);
        let _answer = tokio::select! {
            answer = answer => answer.unwrap(),
            () = &mut sending => panic!("the window takes half of it"),
        };
        if !is_refused {
            body.borrow_mut().kept = None;
        }
        let_read.send(()).unwrap();
        sending.await;
        assert_eq!(node.await.unwrap(), whole);
    }
}
