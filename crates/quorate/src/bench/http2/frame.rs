//! HTTP/2 frames as bytes (RFC 9113, section 4.1 and 6): the nine bytes in front, and what a
//! client of gRPC needs of the rest.
//!
//! ```text
//!   length (24) | type (8) | flags (8) | 0, stream (31) | payload: length bytes
//! ```
//!
//! Pure and total: any bytes give a frame, "not whole yet", or a reason why not.

/// Bytes in front of every payload.
pub(crate) const HEAD_BYTES: usize = 9;

/// The largest payload either side may send unless told otherwise; we never tell otherwise.
pub(crate) const PAYLOAD_MAX: usize = 16_384;

/// The largest flow-control window (section 6.9.1).
pub(crate) const WINDOW_MAX: i64 = (1 << 31) - 1;

/// What every client sends first (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Flag of DATA and HEADERS: the sender sends no more on this stream.
pub(crate) const END_STREAM: u8 = 0x1;
/// Flag of SETTINGS and PING: this is the answer to one.
pub(crate) const ACK: u8 = 0x1;
/// Flag of HEADERS and CONTINUATION: the block of fields ends here.
pub(crate) const END_HEADERS: u8 = 0x4;
/// Flag of DATA and HEADERS: a length and that many bytes of padding.
pub(crate) const PADDED: u8 = 0x8;
/// Flag of HEADERS: five bytes of priority, which nobody uses any more.
pub(crate) const PRIORITY_FIELDS: u8 = 0x20;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Headers,
    ResetStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// PRIORITY, and types invented later: to be ignored.
    Other,
}

impl Kind {
    fn from_byte(byte: u8) -> Kind {
        match byte {
            0 => Kind::Data,
            1 => Kind::Headers,
            3 => Kind::ResetStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Other,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Kind::Data => 0,
            Kind::Headers => 1,
            Kind::ResetStream => 3,
            Kind::Settings => 4,
            Kind::PushPromise => 5,
            Kind::Ping => 6,
            Kind::GoAway => 7,
            Kind::WindowUpdate => 8,
            Kind::Continuation => 9,
            Kind::Other => 2,
        }
    }
}

/// A whole frame inside the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    /// 0: the connection.
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with; `None` if it is not whole yet.
    ///
    /// # Errors
    /// It is larger than a peer may send.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Option<Frame<'a>>, String> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if length > PAYLOAD_MAX {
            return Err(format!("a frame of {length} bytes, more than allowed"));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Some(Frame {
            kind: Kind::from_byte(head[3]),
            flags: head[4],
            stream,
            payload,
        }))
    }

    /// How many bytes the frame takes.
    pub(crate) fn length(&self) -> usize {
        HEAD_BYTES + self.payload.len()
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of DATA or HEADERS without padding and priority.
    ///
    /// # Errors
    /// There is less than they say there is.
    pub(crate) fn content(&self) -> Result<&'a [u8], String> {
        let mut content = self.payload;
        let short = || "a frame shorter than its own padding".to_owned();
        let mut padding = 0;
        if self.has(PADDED) {
            let (length, rest) = content.split_first().ok_or_else(short)?;
            padding = usize::from(*length);
            content = rest;
        }
        if self.kind == Kind::Headers && self.has(PRIORITY_FIELDS) {
            content = content.get(5..).ok_or_else(short)?;
        }
        let length = content.len().checked_sub(padding).ok_or_else(short)?;
        Ok(&content[..length])
    }
}

/// Writes the bytes in front of a payload.
pub(crate) fn put_head(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, length: usize) {
    assert!(
        length <= PAYLOAD_MAX,
        "a payload is split before it is framed"
    );
    let length = (length as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    out.extend_from_slice(&[
        length[1],
        length[2],
        length[3],
        kind.byte(),
        flags,
        stream[0],
        stream[1],
        stream[2],
        stream[3],
    ]);
}

/// Writes a whole small frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    put_head(out, kind, flags, stream, payload.len());
    out.extend_from_slice(payload);
}

/// Gives the peer leave to send `bytes` more on a stream (0: on the connection).
pub(crate) fn put_window_update(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    put(out, Kind::WindowUpdate, 0, stream, &bytes.to_be_bytes());
}

/// What an error code of RST_STREAM or GOAWAY means (section 7).
pub(crate) fn reason(code: u32) -> String {
    let names = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    names
        .get(code as usize)
        .map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was_written() {
        let mut bytes = Vec::new();
        put(&mut bytes, Kind::Data, END_STREAM, 0x0102_0305, b"abc");
        assert_eq!(bytes[..9], [0, 0, 3, 0, 1, 1, 2, 3, 5]);
        let frame = Frame::parse(&bytes).unwrap().unwrap();
        assert_eq!(
            (frame.kind, frame.stream, frame.payload, frame.length()),
            (Kind::Data, 0x0102_0305, &b"abc"[..], 12)
        );
        for end in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn a_frame_larger_than_allowed_is_refused() {
        assert!(Frame::parse(&[0, 0x40, 1, 0, 0, 0, 0, 0, 1]).is_err());
        assert_eq!(Frame::parse(&[0, 0x40, 0, 0, 0, 0, 0, 0, 1]), Ok(None));
    }

    #[test]
    fn padding_and_priority_are_left_out() {
        let frame = |kind, flags, payload| Frame {
            kind,
            flags,
            stream: 1,
            payload,
        };
        let padded = frame(Kind::Data, PADDED, &[2, b'a', b'b', 0, 0]);
        assert_eq!(padded.content(), Ok(&b"ab"[..]));
        let both = PADDED | PRIORITY_FIELDS;
        let headers = frame(Kind::Headers, both, &[1, 0, 0, 0, 0, 0, b'a', 0]);
        assert_eq!(headers.content(), Ok(&b"a"[..]));
        assert!(frame(Kind::Data, PADDED, &[2, 0]).content().is_err());
        assert!(frame(Kind::Data, PADDED, &[]).content().is_err());
        let cut = frame(Kind::Headers, PRIORITY_FIELDS, &[0; 4]);
        assert!(cut.content().is_err());
    }
}
