//! Streams between an HTTP/2 client and a service, over memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use http::Request;
use tokio::io::duplex;
use tokio::task::LocalSet;

use super::*;

const PATH: &str = "/test/Stream";

/// What the service has seen, as lines.
type Log = Rc<RefCell<Vec<String>>>;

/// Sends as many messages as a request says, while it has credit.
struct Sender {
    log: Log,
    credit: usize,
    left: usize,
    shared: Bytes,
    asking: Option<StreamId>,
}

impl Sender {
    fn go_on(&mut self, stream: StreamId, out: &mut Vec<Effect>) {
        while self.left > 0 && self.credit >= self.shared.len() {
            self.left -= 1;
            self.credit -= self.shared.len();
            let message = self.shared.clone();
            out.push(Effect::Send { stream, message });
        }
    }
}

impl StreamService for Sender {
    fn opened(&mut self, _: StreamId, headers: &HeaderMap, _: Identity, _: &mut Vec<Effect>) {
        let leader = headers.contains_key("hasleader");
        self.log.borrow_mut().push(format!("opened {leader}"));
    }

    fn message(&mut self, stream: StreamId, message: Bytes, out: &mut Vec<Effect>) {
        let text = String::from_utf8(message.to_vec()).unwrap();
        self.log.borrow_mut().push(text.clone());
        match text.as_str() {
            "ask" => self.asking = Some(stream),
            "end" => out.push(Effect::End {
                stream,
                status: Status::new(11, "that is all"),
            }),
            count => self.left = count.parse().unwrap(),
        }
        self.go_on(stream, out);
    }

    fn finished(&mut self, _: StreamId, _: &mut Vec<Effect>) {
        self.log.borrow_mut().push("finished".into());
    }

    fn closed(&mut self, _: StreamId) {
        self.log.borrow_mut().push("closed".into());
    }

    fn taken(&mut self, stream: StreamId, bytes: usize, _: usize, out: &mut Vec<Effect>) {
        self.credit += bytes;
        self.go_on(stream, out);
    }

    fn answered(&mut self, ticket: Ticket, answered: Answered, out: &mut Vec<Effect>) {
        assert!(matches!(answered, Ok(Answer::Ready(Ok(())))));
        let stream = Key::from_bits(ticket.0);
        let message = Bytes::from_static(b"answered");
        out.push(Effect::Send { stream, message });
    }

    fn told(&mut self, _: Instant, _: &News, _: &mut Vec<Effect>) {}

    fn flush(&mut self, _: Instant, _: &mut Vec<Effect>, calls: &mut Vec<(Ticket, Call)>) {
        if let Some(stream) = self.asking.take() {
            calls.push((Ticket(stream.bits()), Call::Ready));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// A server whose only connection is the other end of `io`, and which answers calls at once.
async fn serve(io: tokio::io::DuplexStream, log: Log, most_queued: Rc<RefCell<usize>>) {
    let limits = ClientLimits {
        stream_credit_bytes: 100_000,
        ..ClientLimits::default()
    };
    let turn = Arc::new(Notify::new());
    let mut streams = Streams::new(&turn, &limits, &RpcMetrics::default());
    let sender = Sender {
        log,
        credit: limits.stream_credit_bytes,
        left: 0,
        shared: Bytes::from(vec![7; 1000]),
        asking: None,
    };
    streams.mount(PATH, Box::new(sender));
    let prebuilt = Prebuilt::new();
    let mut builder = h2::server::Builder::new();
    let builder = builder
        .max_send_buffer_size(limits.stream_send_bytes)
        // That of eight hundred short frames.
        .data_frame_budget(200_000);
    let mut connection = builder.handshake::<_, Payload>(io).await.unwrap();
    loop {
        tokio::select! {
            biased;
            accepted = poll_fn(|context| connection.poll_accept(context)) => {
                let Some(Ok((request, mut respond))) = accepted else {
                    // Streams end with their connection.
                    streams.turn(Instant(0), &prebuilt, &mut Vec::new());
                    return;
                };
                let service = streams.service_of(request.uri().path()).unwrap();
                let (head, body) = request.into_parts();
                let nobody = Identity::default();
                let traffic = Rc::default();
                streams.open(
                    service,
                    (&head.headers, nobody),
                    traffic,
                    (Bytes::new(), body),
                    &mut respond,
                    &prebuilt,
                );
            }
            () = turn.notified() => {}
        }
        let mut calls = Vec::new();
        streams.turn(Instant(0), &prebuilt, &mut calls);
        for (asker, _) in calls {
            streams.answered(asker, Ok(Answer::Ready(Ok(()))));
            streams.turn(Instant(0), &prebuilt, &mut Vec::new());
        }
        for key in streams.streams.keys() {
            let (stream, _) = streams.streams.get_mut(key).unwrap();
            let most = &mut *most_queued.borrow_mut();
            *most = stream.queued_bytes.max(*most);
        }
    }
}

fn framed(text: &str) -> Bytes {
    let length = u8::try_from(text.len()).unwrap();
    [&[0, 0, 0, 0, length], text.as_bytes()].concat().into()
}

/// Runs a client against the service; what the service saw, and the most that was queued.
fn with_client<F>(client: impl FnOnce(SendStream<Bytes>, h2::client::ResponseFuture) -> F) -> Seen
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (log, most_queued) = (Log::default(), Rc::<RefCell<usize>>::default());
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let (ours, theirs) = duplex(4096);
        let server = serve(theirs, Rc::clone(&log), Rc::clone(&most_queued));
        let server = tokio::task::spawn_local(server);
        let (mut send, connection) = h2::client::handshake(ours).await.unwrap();
        let connection = tokio::task::spawn_local(async { connection.await.unwrap() });
        let request = Request::post(format!("http://test{PATH}")).header("hasleader", "true");
        let (response, body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        client(body, response).await;
        drop(send);
        connection.await.unwrap();
        server.await.unwrap();
    });
    let seen = log.borrow().clone();
    let most_queued = *most_queued.borrow();
    (seen, most_queued)
}

type Seen = (Vec<String>, usize);

#[test]
fn messages_go_both_ways_until_the_service_ends_the_stream() {
    let (seen, _) = with_client(|mut body, response| async move {
        let mut stream = response.await.unwrap().into_body();
        // Each only after what the one before it brings.
        for (request, bytes) in [("ask", 5 + 8), ("3", 3 * 1005)] {
            body.send_data(framed(request), false).unwrap();
            let mut received = 0;
            while received < bytes {
                received += stream.data().await.unwrap().unwrap().len();
            }
            assert_eq!(received, bytes);
        }
        body.send_data(framed("end"), false).unwrap();
        assert!(stream.data().await.is_none());
        let trailers = stream.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "11");
        assert_eq!(trailers["grpc-message"], "that is all");
    });
    assert_eq!(seen, ["opened true", "ask", "3", "end"]);
}

#[test]
fn a_client_that_does_not_read_stops_the_service_and_loses_nothing() {
    const COUNT: usize = 2000;
    let (seen, most_queued) = with_client(|mut body, response| async move {
        body.send_data(framed(&COUNT.to_string()), false).unwrap();
        let mut stream = response.await.unwrap().into_body();
        let mut received = 0;
        // Nothing is given back until the window is used up.
        let mut owed = 0;
        while received < COUNT * 1005 {
            let patience = std::time::Duration::from_millis(20);
            match tokio::time::timeout(patience, stream.data()).await {
                Ok(piece) => {
                    let piece = piece.unwrap().unwrap();
                    received += piece.len();
                    owed += piece.len();
                }
                Err(_) => {
                    assert!(owed > 0, "whoever gives credit back gets more");
                    stream.flow_control().release_capacity(owed).unwrap();
                    owed = 0;
                }
            }
        }
        assert_eq!(received, COUNT * 1005);
        body.send_data(framed("end"), false).unwrap();
        while let Some(piece) = stream.data().await {
            piece.unwrap();
        }
    });
    assert_eq!(seen, ["opened true", "2000", "end"]);
    assert!(
        most_queued > 50_000,
        "the service went ahead: {most_queued}"
    );
    assert!(most_queued <= 100_000, "but not too far: {most_queued}");
}

/// A stream of keep-alives is not read while its client is owed answers. What came all the same
/// lay in the HTTP/2 library, which ended the connection for so many short frames.
#[test]
fn what_comes_on_a_stream_that_is_not_read_ends_no_connection() {
    const MORE: usize = 2000;
    let (seen, _) = with_client(|mut body, response| async move {
        body.send_data(framed("3000"), false).unwrap();
        let mut stream = response.await.unwrap().into_body();
        // Nothing is given back: the service goes ahead as far as it may, and waits.
        let mut received = 0;
        while received < 65_535 {
            received += stream.data().await.unwrap().unwrap().len();
        }
        for _ in 0..MORE {
            body.send_data(framed("0"), false).unwrap();
        }
        body.send_data(framed("end"), false).unwrap();
        // All of it arrives meanwhile, a few thousand bytes at a time.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        stream.flow_control().release_capacity(received).unwrap();
        while let Some(piece) = stream.data().await {
            let length = piece.unwrap().len();
            stream.flow_control().release_capacity(length).unwrap();
        }
    });
    let mut expected = vec!["opened true", "3000"];
    expected.extend(["0"; MORE]);
    expected.push("end");
    assert_eq!(seen, expected);
}

#[test]
fn a_stream_that_its_client_resets_is_closed() {
    let (seen, _) = with_client(|mut body, response| async move {
        body.send_data(framed("2"), false).unwrap();
        let mut stream = response.await.unwrap().into_body();
        stream.data().await.unwrap().unwrap();
        body.send_reset(h2::Reason::CANCEL);
    });
    assert_eq!(seen, ["opened true", "2", "closed"]);
}

#[test]
fn a_client_that_has_said_everything_still_listens() {
    let (seen, _) = with_client(|mut body, response| async move {
        body.send_data(framed("2"), true).unwrap();
        let mut stream = response.await.unwrap().into_body();
        let mut received = 0;
        while received < 2 * 1005 {
            received += stream.data().await.unwrap().unwrap().len();
        }
    });
    assert_eq!(seen, ["opened true", "2", "finished", "closed"]);
}

#[test]
fn short_messages_go_out_together_and_long_ones_alone() {
    let message = |byte: u8, length: usize| Queued {
        payload: Payload::message(Bytes::from(vec![byte; length])),
        messages: 1,
    };
    let lengths = [10, 20, 30, 2_000, 5, 2_000, 7];
    let numbered = (1u8..).zip(lengths);
    let mut queue: VecDeque<Queued> = numbered
        .map(|(byte, length)| message(byte, length))
        .collect();
    let mut seen = Vec::new();
    let mut bytes = Vec::new();
    while !queue.is_empty() {
        let next = take_next(&mut queue);
        seen.push((next.messages, next.bytes));
        let mut payload = next.payload;
        bytes.extend_from_slice(&payload.copy_to_bytes(payload.remaining()));
    }
    assert_eq!(seen, [(3, 60), (1, 2_000), (1, 5), (1, 2_000), (1, 7)]);
    let mut deframer = Deframer::new(1 << 20);
    deframer.push(bytes.into());
    for (byte, length) in (1u8..).zip(lengths) {
        let message = deframer.next().unwrap().expect("each is whole");
        assert_eq!(message, vec![byte; length]);
    }
    let mut many: VecDeque<Queued> = (0..100).map(|_| message(0, 500)).collect();
    let first = take_next(&mut many);
    assert_eq!(first.messages, MERGED_BYTES / 505, "and no more than that");
}
