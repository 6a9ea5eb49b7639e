//! gRPC on the wire, as pure functions: what stands around the messages of a call.
//!
//! ```text
//!   HEADERS  :status 200, content-type                       one of these, prebuilt
//!   DATA     flag u8 = 0 | length u32, big-endian | message  one frame if the message is small
//!   HEADERS  grpc-status, grpc-message                       after the last message, or alone
//! ```
//!
//! (gRPC over HTTP/2, in its own specification.) A message is sent with its prefix as one piece
//! without being copied: [`Payload`] is a buffer of two parts.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IoSlice;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};

/// The length of what stands before each message.
pub(super) const PREFIX_BYTES: usize = 5;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// gRPC's number; 0 if the call succeeded.
    pub(crate) code: i32,
    /// For people, and for clients that tell errors apart by it.
    pub(crate) text: Cow<'static, str>,
}

impl From<Status> for tonic::Status {
    fn from(status: Status) -> tonic::Status {
        tonic::Status::new(tonic::Code::from_i32(status.code), status.text)
    }
}

impl Status {
    /// The call succeeded.
    pub(crate) const OK: Status = Status::new(0, "");

    pub(crate) const fn new(code: i32, text: &'static str) -> Status {
        Status {
            code,
            text: Cow::Borrowed(text),
        }
    }

    pub(crate) fn with_text(code: etcd::Code, text: String) -> Status {
        Status {
            code: code.number(),
            text: Cow::Owned(text),
        }
    }

    /// The node does nothing any more. What was asked for may have happened.
    pub(crate) fn stopped() -> Status {
        let code = etcd::Code::Unavailable.number();
        Status::new(code, "etcdserver: server stopped")
    }

    /// Too many calls are under way. Coded as etcd's own server does, which maps it to `Unknown`.
    pub(crate) fn busy() -> Status {
        let code = etcd::Code::Unknown.number();
        Status::new(code, "etcdserver: too many requests")
    }

    /// The node has answered something else than was asked: a bug, and not the client's.
    pub(crate) fn mismatch() -> Status {
        let code = etcd::Code::Internal.number();
        let text = "the answer does not belong to the request; please report this";
        Status::new(code, text)
    }

    /// The time that the client gave is over.
    pub(crate) fn too_late() -> Status {
        let code = etcd::Code::DeadlineExceeded.number();
        Status::new(code, "context deadline exceeded")
    }

    /// A message has been begun, and its end does not come.
    pub(super) fn too_slow() -> Status {
        let code = etcd::Code::DeadlineExceeded.number();
        Status::new(code, "quorate: the request took too long to arrive")
    }

    /// What a call's last headers say, as its caller reads it.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<(), Status> {
        let number = headers.get(GRPC_STATUS).and_then(|code| code.to_str().ok());
        let code = number.and_then(|code| code.parse().ok());
        let code = code.unwrap_or(etcd::Code::Unknown.number());
        if code == 0 {
            return Ok(());
        }
        let text = headers.get(GRPC_MESSAGE).map(HeaderValue::as_bytes);
        Err(Status {
            code,
            text: percent_decoded(text.unwrap_or_default()).into(),
        })
    }

    /// The headers that say it.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(3);
        self.write(&mut headers);
        headers
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code));
        if !self.text.is_empty()
            && let Ok(text) = HeaderValue::try_from(percent_encoded(&self.text))
        {
            headers.insert(GRPC_MESSAGE, text);
        }
    }
}

impl From<&etcd::Error> for Status {
    fn from(error: &etcd::Error) -> Status {
        Status::new(error.code().number(), error.text())
    }
}

/// Everything but printable ASCII is encoded, and the sign that begins an encoded byte.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all that is written to it");
        }
    }
    encoded
}

/// The inverse; what makes no sense stands for itself.
fn percent_decoded(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) if *first == b'%' => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// What one DATA frame or more carry: a message behind its prefix, or bytes as they are.
#[derive(Debug)]
pub(crate) struct Payload {
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix is gone.
    prefix_gone: usize,
    body: Bytes,
}

impl Payload {
    /// A message, which gets its prefix.
    pub(super) fn message(body: Bytes) -> Payload {
        Payload {
            prefix: prefix(body.len()),
            prefix_gone: 0,
            body,
        }
    }

    /// The prefix and the message, as bytes that stand for themselves.
    pub(super) fn into_parts(self) -> [Bytes; 2] {
        [Bytes::copy_from_slice(&self.prefix), self.body]
    }

    /// The length of the message, or of what is left of it.
    pub(super) fn message_bytes(&self) -> usize {
        self.body.len()
    }

    /// Bytes that stand for themselves.
    pub(super) fn plain(body: Bytes) -> Payload {
        Payload {
            prefix: [0; PREFIX_BYTES],
            prefix_gone: PREFIX_BYTES,
            body,
        }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        PREFIX_BYTES - self.prefix_gone + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.prefix_gone < PREFIX_BYTES {
            &self.prefix[self.prefix_gone..]
        } else {
            &self.body
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for part in [&self.prefix[self.prefix_gone..], &self.body[..]] {
            if !part.is_empty() && count < slices.len() {
                slices[count] = IoSlice::new(part);
                count += 1;
            }
        }
        count
    }

    fn advance(&mut self, count: usize) {
        let of_prefix = count.min(PREFIX_BYTES - self.prefix_gone);
        self.prefix_gone += of_prefix;
        self.body.advance(count - of_prefix);
    }
}

/// What stands before an uncompressed message of `length` bytes.
pub(super) fn prefix(length: usize) -> [u8; PREFIX_BYTES] {
    let length = u32::try_from(length).expect("a message is shorter than 4 GiB");
    let [a, b, c, d] = length.to_be_bytes();
    [0, a, b, c, d]
}

/// The longest message that is sent, as etcd's server is set.
const LONGEST_SENT_BYTES: usize = i32::MAX as usize;

/// An answer on its way out.
pub(super) enum Answered {
    /// Short enough to be kept until the client takes it.
    Ready(Payload),
    /// To be encoded only once the client takes something of it, and not on this thread. Until
    /// then it shares its keys and values with the state.
    Large(LargeAnswer),
}

/// Encodes a large answer.
pub(super) type LargeAnswer = Box<dyn FnOnce() -> Payload + Send>;

/// A call's one message, for sending.
pub(super) fn answer(
    message: impl prost::Message + 'static,
    large_bytes: usize,
) -> Result<Answered, Status> {
    let length = message.encoded_len();
    if length > LONGEST_SENT_BYTES {
        let text = format!(
            "grpc: trying to send message larger than max ({length} vs. {LONGEST_SENT_BYTES})"
        );
        return Err(Status::with_text(etcd::Code::ResourceExhausted, text));
    }
    Ok(if length > large_bytes {
        Answered::Large(Box::new(move || encode(&message, length)))
    } else {
        Answered::Ready(encode(&message, length))
    })
}

/// `message`, of so many bytes, behind its prefix.
fn encode(message: &impl prost::Message, length: usize) -> Payload {
    let mut body = Vec::with_capacity(length);
    message
        .encode(&mut body)
        .expect("the buffer is as long as the message");
    Payload::message(body.into())
}

/// Heads and ends of successful answers, made once.
pub(super) struct Prebuilt {
    head: HeaderMap,
    success: HeaderMap,
}

impl Prebuilt {
    pub(super) fn new() -> Prebuilt {
        let mut head = HeaderMap::with_capacity(1);
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Prebuilt {
            head,
            success: Status::OK.headers(),
        }
    }

    /// The head of an answer that has messages.
    pub(super) fn head(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.headers_mut() = self.head.clone();
        response
    }

    /// What stands behind the last message.
    pub(super) fn trailers(&self, status: &Status) -> HeaderMap {
        if *status == Status::OK {
            return self.success.clone();
        }
        status.headers()
    }

    /// Answers a call with one message.
    pub(super) fn answer(&self, respond: &mut SendResponse<Payload>, payload: Payload) {
        // A client that has gone needs no answer.
        if let Ok(mut send) = respond.send_response(self.head(), false)
            && send.send_data(payload, false).is_ok()
        {
            let _ = send.send_trailers(self.success.clone());
        }
    }

    /// Refuses what is not gRPC, as gRPC's specification says.
    pub(super) fn refuse_stranger(respond: &mut SendResponse<Payload>, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // A client that has gone needs no answer.
        let _ = respond.send_response(response, true);
    }

    /// Answers a call with nothing but a status.
    pub(super) fn refuse(&self, respond: &mut SendResponse<Payload>, status: &Status) {
        // A client that has gone needs no answer.
        let _ = respond.send_response(self.refusal(status), true);
    }

    /// An answer that is nothing but a status.
    pub(super) fn refusal(&self, status: &Status) -> Response<()> {
        let mut response = self.head();
        status.write(response.headers_mut());
        response
    }
}

/// Whether a request is gRPC at all; if not, what HTTP says to it. What stands behind a `+` in the
/// type of the content is ignored, as gRPC's Go library does where it does not know it.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), StatusCode> {
    let content = request.headers().get(CONTENT_TYPE);
    let rest = content.and_then(|content| content.as_bytes().strip_prefix(b"application/grpc"));
    if !matches!(rest, Some([] | [b'+' | b';', ..])) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    match *request.method() {
        http::Method::POST => Ok(()),
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// Messages that are compressed are not understood here; said in the words of gRPC's Go library.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    let encoding = headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes);
    let Some(encoding) = encoding.filter(|encoding| *encoding != b"identity") else {
        return Ok(());
    };
    let encoding = String::from_utf8_lossy(encoding);
    let text = format!("grpc: Decompressor is not installed for grpc-encoding \"{encoding}\"");
    Err(Status::with_text(etcd::Code::Unimplemented, text))
}

/// How long the client waits, if it says so (in a form that makes sense).
pub(crate) fn time_allowed(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // Eight digits at most, says the specification, so that no product below overflows.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Takes messages out of the bytes of a request, however they were cut.
#[derive(Debug)]
pub(crate) struct Deframer {
    /// What has arrived last; messages that lie in it whole are not copied.
    arrived: Bytes,
    /// The beginning of a message that goes on in what arrives next. Grows with what has really
    /// arrived, so that a prefix that promises much costs nothing.
    begun: BytesMut,
    longest: usize,
}

impl Deframer {
    pub(crate) fn new(longest: usize) -> Deframer {
        Deframer {
            arrived: Bytes::new(),
            begun: BytesMut::new(),
            longest,
        }
    }

    /// Takes in what has arrived, once [`Deframer::next`] has nothing more.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if self.begun.is_empty() {
            assert!(
                self.arrived.is_empty(),
                "everything complete is taken before more comes"
            );
            self.arrived = bytes;
        } else {
            self.begun.extend_from_slice(&bytes);
        }
    }

    /// The next complete message; `None` if more has to arrive first.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.begun.is_empty() {
            let Some(length) = self.length(&self.arrived)? else {
                self.begun.extend_from_slice(&self.arrived);
                self.arrived = Bytes::new();
                return Ok(None);
            };
            self.arrived.advance(PREFIX_BYTES);
            return Ok(Some(self.arrived.split_to(length)));
        }
        let Some(length) = self.length(&self.begun)? else {
            return Ok(None);
        };
        self.begun.advance(PREFIX_BYTES);
        let message = self.begun.split_to(length).freeze();
        // What follows the message is looked at as if it had just arrived.
        self.arrived = std::mem::take(&mut self.begun).freeze();
        Ok(Some(message))
    }

    /// Whether the rest of a message is missing.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// The length of the message at the front of `bytes`, if it is there whole.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let [flag, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if flag != 0 {
            let text = match flag {
                1 => "protocol error: received message with compressed-flag but no grpc-encoding \
                      was specified"
                    .to_owned(),
                _ => format!(
                    "protocol error: received message with invalid compression flag: {flag} \
                     (valid flags are 0 and 1)"
                ),
            };
            return Err(Status::with_text(etcd::Code::Internal, text));
        }
        if length > self.longest {
            let longest = self.longest;
            let text = format!("grpc: received message larger than max ({length} vs. {longest})");
            return Err(Status::with_text(etcd::Code::ResourceExhausted, text));
        }
        Ok((rest.len() >= length).then_some(length))
    }
}

#[cfg(test)]
mod tests;
