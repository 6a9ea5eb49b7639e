//! One HTTP/2 connection of a gRPC client, as a machine without a socket.
//!
//! ```text
//!              SETTINGS                 GOAWAY, or stream ids used up
//!   opening ──────────────> open ───────────────────────────────────> draining
//!   no request yet           requests                                  answers only
//! ```
//!
//! Both sides count what they may still send: per stream and per connection (section 5.2 of
//! RFC 9113). What does not fit waits in its stream, and goes out as the server takes more.
//!
//! Bytes from a server are checked: whatever they are, the outcome is events or a reason to close.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::fields::{Fields, Requests, Responses};
use super::frame::{self, Frame, Kind};

/// What the server may send on a stream before we say that we have read it.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for the whole connection: we read everything at once, so it never holds anyone up.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// What HTTP/2 begins with (section 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// The longest block of header fields.
const BLOCK_MAX: usize = 64 << 10;
/// The longest message.
const MESSAGE_MAX: usize = 64 << 20;
/// The number of the last stream that a connection may open (section 5.1.1).
const LAST_STREAM: u32 = (1 << 31) - 1;

/// A stream of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream(u32);

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The server's settings are there: requests may be sent.
    Open,
    /// One whole message on a stream, named by the caller's token.
    Message(u32, &'a [u8]),
    /// A stream has ended: well, or with a reason.
    End(u32, Result<(), String>),
    /// The server takes no more requests; those it took are answered.
    Draining,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Draining,
}

/// A stream that is under way.
#[derive(Debug)]
struct Call {
    token: u32,
    /// What the server still takes on this stream; negative after it has shrunk its window.
    window: i64,
    /// What has come since the server was last given leave to send more.
    read_bytes: u32,
    /// The beginning of a message that is not whole yet.
    message: Vec<u8>,
    /// What could not be sent yet.
    unsent: VecDeque<u8>,
    /// Nothing more is sent after that.
    last: bool,
    /// The first block of fields has come; the next is the last.
    answered: bool,
    /// An answer that is no gRPC (a proxy's, say) ends with this.
    problem: Option<String>,
}

/// A block of header fields that is not whole yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    bytes: Vec<u8>,
}

/// A connection to a server that speaks gRPC.
#[derive(Debug)]
pub(crate) struct Connection {
    state: State,
    requests: Requests,
    responses: Responses,
    calls: HashMap<u32, Call>,
    /// Streams that have something unsent, first come, first served.
    blocked: VecDeque<u32>,
    next_stream: u32,
    block: Option<Block>,
    output: Vec<u8>,
    window: i64,
    /// What a new stream's window is, as the server wants it.
    first_window: i64,
    payload_max: usize,
    streams_max: u32,
    read_bytes: u32,
}

impl Connection {
    /// A new connection to a server called `authority`, whose requests show `token`. Its first
    /// bytes wait in the output.
    pub(crate) fn new(authority: &str, token: Option<&Arc<str>>) -> Connection {
        let mut output = Vec::with_capacity(4 << 10);
        output.extend_from_slice(frame::PREFACE);
        let mut settings = Vec::new();
        // No table for response fields, no pushed responses, and a window for each stream.
        for (setting, value) in [(1_u16, 0), (2, 0), (4, STREAM_WINDOW)] {
            settings.extend_from_slice(&setting.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        frame::put(&mut output, Kind::Settings, 0, 0, &settings);
        frame::put_window_update(&mut output, 0, CONNECTION_WINDOW - FIRST_WINDOW);
        Connection {
            state: State::Opening,
            requests: Requests::new(authority, token),
            responses: Responses::default(),
            calls: HashMap::new(),
            blocked: VecDeque::new(),
            next_stream: 1,
            block: None,
            output,
            window: i64::from(FIRST_WINDOW),
            first_window: i64::from(FIRST_WINDOW),
            payload_max: frame::PAYLOAD_MAX,
            streams_max: u32::MAX,
            read_bytes: 0,
        }
    }

    /// What is to be written. The caller takes away what it has written.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether a request may be sent now.
    pub(crate) fn has_room(&self) -> bool {
        self.state == State::Open && self.calls.len() < self.streams_max as usize
    }

    /// Whether it has ended its work: it takes no requests and waits for no answers.
    pub(crate) fn is_drained(&self) -> bool {
        self.state == State::Draining && self.calls.is_empty()
    }

    /// The tokens of all calls under way.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = u32> {
        self.calls.values().map(|call| call.token)
    }

    /// Sends a request: `message` with its gRPC prefix, and nothing after it if it is the `last`.
    /// What comes back names `token`.
    ///
    /// # Panics
    /// If there is no room: see [`Connection::has_room`].
    pub(crate) fn open(
        &mut self,
        token: u32,
        path: &'static str,
        message: &[u8],
        last: bool,
    ) -> Stream {
        assert!(self.has_room(), "a caller looks for room first");
        let stream = self.next_stream;
        self.next_stream += 2;
        if self.next_stream > LAST_STREAM {
            self.state = State::Draining;
        }
        let head = self.output.len();
        frame::put_head(
            &mut self.output,
            Kind::Headers,
            frame::END_HEADERS,
            stream,
            0,
        );
        self.requests.encode(path, &mut self.output);
        let length = self.output.len() - head - frame::HEAD_BYTES;
        assert!(length < 0xffff, "our header fields are short");
        self.output[head + 1..head + 3].copy_from_slice(&(length as u16).to_be_bytes());
        self.calls.insert(
            stream,
            Call {
                token,
                window: self.first_window,
                read_bytes: 0,
                message: Vec::new(),
                unsent: VecDeque::new(),
                last: false,
                answered: false,
                problem: None,
            },
        );
        self.send(Stream(stream), message, last);
        Stream(stream)
    }

    /// Sends a further message on a stream, with its gRPC prefix. Ignored if the stream is gone.
    pub(crate) fn send(&mut self, stream: Stream, message: &[u8], last: bool) {
        let Some(call) = self.calls.get_mut(&stream.0) else {
            return;
        };
        let length = message.len();
        let whole = call.unsent.is_empty()
            && length <= self.payload_max
            && length as i64 <= call.window.min(self.window);
        if whole {
            call.window -= length as i64;
            self.window -= length as i64;
            let flags = if last { frame::END_STREAM } else { 0 };
            frame::put_head(&mut self.output, Kind::Data, flags, stream.0, length);
            self.output.extend_from_slice(message);
            return;
        }
        call.last |= last;
        if call.unsent.is_empty() {
            self.blocked.push_back(stream.0);
        }
        call.unsent.extend(message);
        self.send_unsent();
    }

    /// Gives a stream up.
    pub(crate) fn cancel(&mut self, stream: Stream) {
        if self.calls.remove(&stream.0).is_some() {
            self.reset(stream.0, 8);
        }
    }

    fn reset(&mut self, stream: u32, code: u32) {
        let code = code.to_be_bytes();
        frame::put(&mut self.output, Kind::ResetStream, 0, stream, &code);
    }

    /// Sends what waits, as far as the windows allow.
    fn send_unsent(&mut self) {
        for _ in 0..self.blocked.len() {
            let Some(stream) = self.blocked.pop_front() else {
                return;
            };
            let Some(call) = self.calls.get_mut(&stream) else {
                continue; // it was answered or given up before all was sent
            };
            while !call.unsent.is_empty() {
                let room = call.window.min(self.window).max(0) as usize;
                let length = call.unsent.len().min(room).min(self.payload_max);
                if length == 0 {
                    self.blocked.push_back(stream);
                    break;
                }
                let ends = call.last && length == call.unsent.len();
                let flags = if ends { frame::END_STREAM } else { 0 };
                frame::put_head(&mut self.output, Kind::Data, flags, stream, length);
                self.output.extend(call.unsent.drain(..length));
                call.window -= length as i64;
                self.window -= length as i64;
            }
        }
    }

    /// Takes in what was received; returns how many bytes were whole frames. The rest is to be
    /// given again with what follows.
    ///
    /// # Errors
    /// The server does not keep to the protocol. The connection is of no use any more.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<usize, String> {
        let mut taken = 0;
        while let Some(frame) = Frame::parse(&bytes[taken..])? {
            taken += frame.length();
            self.frame(frame, sink)?;
        }
        Ok(taken)
    }

    fn frame(&mut self, frame: Frame<'_>, sink: &mut impl FnMut(Event<'_>)) -> Result<(), String> {
        if self.block.is_some() != (frame.kind == Kind::Continuation) {
            return Err("header fields that are cut short".to_owned());
        }
        if self.state == State::Opening && frame.kind != Kind::Settings {
            return Err("no settings at the beginning: not HTTP/2".to_owned());
        }
        match frame.kind {
            Kind::Data => self.data(frame, sink),
            Kind::Headers => {
                let block = Block {
                    stream: frame.stream,
                    end_stream: frame.has(frame::END_STREAM),
                    bytes: Vec::new(),
                };
                self.more_fields(block, frame.content()?, &frame, sink)
            }
            Kind::Continuation => {
                let block = self.block.take().expect("it was looked at above");
                if block.stream != frame.stream {
                    return Err("header fields of two streams at once".to_owned());
                }
                self.more_fields(block, frame.payload, &frame, sink)
            }
            Kind::ResetStream => {
                let code = number(frame.payload)?;
                if let Some(call) = self.calls.remove(&frame.stream) {
                    let reason = format!("stream reset: {}", frame::reason(code));
                    sink(Event::End(call.token, Err(reason)));
                }
                Ok(())
            }
            Kind::Settings => self.settings(frame, sink),
            Kind::PushPromise => Err("a pushed response, which was not allowed".to_owned()),
            Kind::Ping => {
                if frame.payload.len() != 8 {
                    return Err("a PING of a wrong length".to_owned());
                }
                if !frame.has(frame::ACK) {
                    let payload = frame.payload;
                    frame::put(&mut self.output, Kind::Ping, frame::ACK, 0, payload);
                }
                Ok(())
            }
            Kind::GoAway => self.go_away(frame, sink),
            Kind::WindowUpdate => self.window_update(frame),
            Kind::Other => Ok(()),
        }
    }

    /// What the server says of itself (section 6.5.2).
    fn settings(
        &mut self,
        frame: Frame<'_>,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), String> {
        if frame.has(frame::ACK) {
            return Ok(());
        }
        let (settings, rest) = frame.payload.as_chunks::<6>();
        if !rest.is_empty() || frame.stream != 0 {
            return Err("SETTINGS of a wrong shape".to_owned());
        }
        for [high, low, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*high, *low]) {
                1 if !self.requests.table_allowed(value) => {
                    return Err("the server shrinks its table of fields".to_owned());
                }
                3 => self.streams_max = value,
                4 => self.change_windows(value)?,
                // Larger frames than the smallest largest are allowed, and of no use to us.
                5 => self.payload_max = frame::PAYLOAD_MAX.min(value as usize).max(1),
                _ => {}
            }
        }
        frame::put(&mut self.output, Kind::Settings, frame::ACK, 0, &[]);
        if self.state == State::Opening {
            self.state = State::Open;
            sink(Event::Open);
        }
        self.send_unsent();
        Ok(())
    }

    /// A new first window changes those of all streams by the difference (section 6.9.2).
    fn change_windows(&mut self, value: u32) -> Result<(), String> {
        let value = i64::from(value);
        let difference = value - self.first_window;
        self.first_window = value;
        for call in self.calls.values_mut() {
            call.window += difference;
            if call.window > frame::WINDOW_MAX {
                return Err("a window too large".to_owned());
            }
        }
        if value > frame::WINDOW_MAX {
            return Err("a window too large".to_owned());
        }
        Ok(())
    }

    fn window_update(&mut self, frame: Frame<'_>) -> Result<(), String> {
        let more = i64::from(number(frame.payload)? & 0x7fff_ffff);
        let window = if frame.stream == 0 {
            &mut self.window
        } else {
            match self.calls.get_mut(&frame.stream) {
                Some(call) => &mut call.window,
                None => return Ok(()), // it has ended meanwhile
            }
        };
        *window += more;
        if more == 0 || *window > frame::WINDOW_MAX {
            return Err("a window that is not one".to_owned());
        }
        self.send_unsent();
        Ok(())
    }

    /// Streams above the last that the server took were certainly not looked at.
    fn go_away(
        &mut self,
        frame: Frame<'_>,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), String> {
        let (last, rest) = frame
            .payload
            .split_at_checked(4)
            .ok_or("a GOAWAY too short")?;
        let last = number(last)? & 0x7fff_ffff;
        let code = number(rest.get(..4).ok_or("a GOAWAY too short")?)?;
        self.state = State::Draining;
        let refused: Vec<u32> = self.calls.keys().copied().filter(|id| *id > last).collect();
        for stream in refused {
            if let Some(call) = self.calls.remove(&stream) {
                let reason = format!("the server is going away: {}", frame::reason(code));
                sink(Event::End(call.token, Err(reason)));
            }
        }
        sink(Event::Draining);
        Ok(())
    }

    /// A part of a block of fields.
    fn more_fields(
        &mut self,
        mut block: Block,
        part: &[u8],
        frame: &Frame<'_>,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), String> {
        let ends = frame.has(frame::END_HEADERS);
        if block.bytes.is_empty() && ends {
            return self.fields(block.stream, block.end_stream, part, sink);
        }
        if block.bytes.len() + part.len() > BLOCK_MAX {
            return Err("too many header fields".to_owned());
        }
        block.bytes.extend_from_slice(part);
        if ends {
            return self.fields(block.stream, block.end_stream, &block.bytes, sink);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole block of fields: the head of an answer, or what follows its last message.
    fn fields(
        &mut self,
        stream: u32,
        end_stream: bool,
        block: &[u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), String> {
        // Without a table a block means nothing to those after it: one nobody waits for is skipped.
        let Some(call) = self.calls.get_mut(&stream) else {
            return Ok(());
        };
        let fields = self.responses.decode(block)?;
        if !call.answered {
            call.answered = true;
            if fields.http_status.is_some_and(|status| status != 200) {
                call.problem = Some(format!("HTTP status {}", fields.http_status.unwrap_or(0)));
            }
        }
        if end_stream {
            let outcome = match call.problem.take() {
                Some(problem) if fields.grpc_status.is_none() => Err(problem),
                _ => outcome(fields),
            };
            self.ended(stream, outcome, sink);
        }
        Ok(())
    }

    /// The server has said all on a stream.
    fn ended(
        &mut self,
        stream: u32,
        outcome: Result<(), String>,
        sink: &mut impl FnMut(Event<'_>),
    ) {
        let Some(call) = self.calls.remove(&stream) else {
            return;
        };
        if !call.unsent.is_empty() {
            self.reset(stream, 0); // the server does not want the rest
        }
        let cut = !call.message.is_empty() && outcome.is_ok();
        let outcome = if cut {
            Err("an answer that is cut short".to_owned())
        } else {
            outcome
        };
        sink(Event::End(call.token, outcome));
    }

    fn data(&mut self, frame: Frame<'_>, sink: &mut impl FnMut(Event<'_>)) -> Result<(), String> {
        let length = frame.payload.len() as u32;
        self.read_bytes += length;
        if self.read_bytes > CONNECTION_WINDOW {
            return Err("more data than allowed".to_owned());
        }
        if self.read_bytes >= CONNECTION_WINDOW / 2 {
            frame::put_window_update(&mut self.output, 0, self.read_bytes);
            self.read_bytes = 0;
        }
        let content = frame.content()?;
        let Some(call) = self.calls.get_mut(&frame.stream) else {
            return Ok(()); // given up meanwhile
        };
        let end_stream = frame.has(frame::END_STREAM);
        call.read_bytes += length;
        if call.read_bytes >= STREAM_WINDOW / 2 && !end_stream {
            frame::put_window_update(&mut self.output, frame.stream, call.read_bytes);
            call.read_bytes = 0;
        }
        if let Err(problem) = call.messages(content, sink) {
            let token = call.token;
            self.calls.remove(&frame.stream);
            self.reset(frame.stream, 8);
            sink(Event::End(token, Err(problem)));
        } else if end_stream {
            let outcome = Err("an answer without a status".to_owned());
            self.ended(frame.stream, outcome, sink);
        }
        Ok(())
    }
}

impl Call {
    /// Cuts the data of a stream into messages (gRPC over HTTP/2, Length-Prefixed-Message).
    fn messages(
        &mut self,
        mut data: &[u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), String> {
        while !data.is_empty() {
            if self.message.is_empty()
                && let Some(length) = message_length(data)?
                && let Some(message) = data.get(5..5 + length)
            {
                // The ordinary case: a message, or many, in the frame that brought them.
                sink(Event::Message(self.token, message));
                data = &data[5 + length..];
                continue;
            }
            let missing = match message_length(&self.message)? {
                Some(length) => 5 + length - self.message.len(),
                None => 5 - self.message.len(),
            };
            let part = missing.min(data.len());
            self.message.extend_from_slice(&data[..part]);
            data = &data[part..];
            if message_length(&self.message)?.is_some_and(|length| self.message.len() == 5 + length)
            {
                sink(Event::Message(self.token, &self.message[5..]));
                self.message.clear();
            }
        }
        Ok(())
    }
}

/// The length that a message says it has; `None` if that is not whole yet.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some((prefix, _)) = bytes.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 {
        return Err("a compressed message, which nobody asked for".to_owned());
    }
    if length > MESSAGE_MAX {
        return Err(format!("a message of {length} bytes"));
    }
    Ok(Some(length))
}

/// What a call's last fields say.
fn outcome(fields: &Fields) -> Result<(), String> {
    match fields.grpc_status {
        Some(0) => Ok(()),
        Some(code) if fields.grpc_message.is_empty() => Err(format!("gRPC status {code}")),
        Some(code) => Err(format!("{} (gRPC status {code})", fields.grpc_message)),
        None => Err("an answer without a status".to_owned()),
    }
}

fn number(payload: &[u8]) -> Result<u32, String> {
    let bytes = payload
        .try_into()
        .map_err(|_| "a number of a wrong length")?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
