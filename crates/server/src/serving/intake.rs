//! What comes on a stream that is not read for a while, taken from the HTTP/2 library all the same.
//!
//! ```text
//!   h2: a record for each DATA frame ── as they come ──▶ bytes, together ── in turn ──▶ reader
//!                window ◀───────────── room is made again ────────────────────┘
//! ```
//!
//! A client is held up by the window of its stream, which counts bytes. What the library keeps
//! besides them for each frame it counts for the whole connection, and when that is too much, it
//! ends the connection, with all calls that did nothing wrong. Keep-alives are fifteen bytes and
//! cost it 241 more, so that those of one stream come to that long before its window is full: a
//! client sends again every half second what nobody answers. Here they cost their bytes alone.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

/// What comes is put together up to this length.
const TOGETHER_BYTES: usize = 8 * 1024;

/// What a stream's other side sends.
pub(super) struct Intake {
    body: RecvStream,
    /// Taken in and not given out yet, the oldest at the front. It still fills the window.
    ahead: VecDeque<BytesMut>,
}

impl Intake {
    pub(super) fn new(body: RecvStream) -> Intake {
        Intake {
            body,
            ahead: VecDeque::new(),
        }
    }

    /// Takes in what has come; for when it is not to be read yet.
    pub(super) fn take_in(&mut self, context: &mut Context<'_>) {
        // The end, or an error, is found again once everything before it has been given out.
        while let Poll::Ready(Some(Ok(piece))) = self.body.poll_data(context) {
            match self.ahead.back_mut() {
                Some(last) if last.len() + piece.len() <= TOGETHER_BYTES => {
                    last.extend_from_slice(&piece);
                }
                _ => self.ahead.push_back(BytesMut::from(&piece[..])),
            }
        }
    }

    /// The next bytes, for which the other side gets room again; `None` at the end.
    pub(super) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let piece = match self.ahead.pop_front() {
            Some(piece) => piece.freeze(),
            None => match ready!(self.body.poll_data(context)) {
                Some(Ok(piece)) => piece,
                end => return Poll::Ready(end),
            },
        };
        if self.ahead.is_empty() {
            // A burst is not a reason to keep its memory.
            self.ahead.shrink_to_fit();
        }
        // Failing means that the stream is gone, which the next poll will say.
        let _ = self.body.flow_control().release_capacity(piece.len());
        Poll::Ready(Some(Ok(piece)))
    }

    /// What stands behind the last bytes.
    pub(super) async fn trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        self.body.trailers().await
    }
}

/// Waits for something, and does something else whenever that has to wait.
pub(super) async fn wait<T>(
    awaited: impl Future<Output = T>,
    mut meanwhile: impl FnMut(&mut Context<'_>),
) -> T {
    let mut awaited = pin!(awaited);
    std::future::poll_fn(|context| {
        let polled = awaited.as_mut().poll(context);
        if polled.is_pending() {
            meanwhile(context);
        }
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use tokio::io::duplex;

    use super::*;

    const FRAMES: usize = 1000;

    /// Frames of ten bytes, of which the library is to keep no more than a hundred.
    #[tokio::test]
    async fn short_frames_that_wait_fill_the_window_and_nothing_else() {
        let (ours, theirs) = duplex(1024);
        let client = tokio::spawn(async move {
            let (mut requests, connection) = h2::client::handshake(ours).await.unwrap();
            let connection = tokio::spawn(connection);
            let request = Request::post("http://test/").body(()).unwrap();
            let (answer, mut send) = requests.send_request(request, false).unwrap();
            for number in 0..FRAMES {
                let frame = format!("{number:>10}");
                send.send_data(frame.into(), number + 1 == FRAMES).unwrap();
            }
            assert!(answer.await.is_ok());
            drop((requests, send));
            connection.await.unwrap().unwrap();
        });
        let mut builder = h2::server::Builder::new();
        let handshake = builder.data_frame_budget(25_600).handshake(theirs);
        let mut connection: h2::server::Connection<_, Bytes> = handshake.await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut intake = Intake::new(request.into_body());
        let come = std::future::poll_fn(|context| {
            assert!(connection.poll_closed(context).is_pending());
            intake.take_in(context);
            match intake.body.is_end_stream() {
                true => Poll::Ready(intake.body.flow_control().used_capacity()),
                false => Poll::Pending,
            }
        });
        assert_eq!(come.await, FRAMES * 10, "nobody has made room yet");
        let mut read = Vec::new();
        let all = std::future::poll_fn(|context| {
            loop {
                match ready!(intake.poll_data(context)) {
                    Some(piece) => read.extend_from_slice(&piece.unwrap()),
                    None => return Poll::Ready(()),
                }
            }
        });
        all.await;
        let expected: String = (0..FRAMES).map(|number| format!("{number:>10}")).collect();
        assert_eq!(String::from_utf8(read).unwrap(), expected);
        assert_eq!(intake.body.flow_control().used_capacity(), 0);
        respond.send_response(Response::new(()), true).unwrap();
        drop((intake, respond));
        let (_, client) = tokio::join!(connection.accept(), client);
        client.unwrap();
    }
}
