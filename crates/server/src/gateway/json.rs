//! Messages as JSON and back, after the mapping that protocol buffers define, in the form that
//! etcd's gateway gives it: 64-bit numbers are text, bytes are base64, names are those of the
//! definitions, and what has its default value is left out. Both spellings of a name are read, and
//! names that nobody knows are passed over.

use bytes::{Buf as _, Bytes, BytesMut};
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::json;

use super::http_status;
use crate::serving::Status;
use prost::Message as _;

/// The message that a text stands for; an empty text for an empty message.
pub(super) fn to_message(input: MessageDescriptor, text: &[u8]) -> Result<Bytes, Status> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Bytes::new());
    }
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut source = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize_with_options(input, &mut source, &options)
        .and_then(|message| source.end().map(|()| message));
    match message {
        Ok(message) => Ok(message.encode_to_vec().into()),
        Err(error) => Err(malformed(&error.to_string())),
    }
}

fn malformed(problem: &str) -> Status {
    Status::with_text(
        etcd::Code::InvalidArgument,
        format!("the request is not the JSON that was expected: {problem}"),
    )
}

/// The text of a message.
pub(super) fn from_message(output: MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let mut text = Vec::new();
    write(output, message, &mut text)?;
    Ok(text)
}

fn write(output: MessageDescriptor, message: Bytes, text: &mut Vec<u8>) -> Result<(), Status> {
    let broken = |error: &dyn std::fmt::Display| {
        let problem = format!("an answer has no JSON form: {error}; please report this");
        Status::with_text(etcd::Code::Internal, problem)
    };
    let message = DynamicMessage::decode(output, message).map_err(|error| broken(&error))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true)
        .stringify_64_bit_integers(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(text), &options)
        .map_err(|error| broken(&error))
}

/// A message of a stream, as a line.
pub(super) fn result_line(output: MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let mut text = br#"{"result":"#.to_vec();
    write(output, message, &mut text)?;
    text.extend_from_slice(b"}\n");
    Ok(text.into())
}

/// How a call has failed. `error` is what versions of the gateway before 3.6 call the message.
pub(super) fn error(status: &Status) -> Vec<u8> {
    let body = json!({
        "error": status.text,
        "code": status.code,
        "message": status.text,
        "details": [],
    });
    body.to_string().into_bytes()
}

/// How a stream has ended, as a line; with the names of all versions of the gateway.
pub(super) fn stream_error(status: &Status) -> Bytes {
    let http = http_status(status.code);
    let body = json!({"error": {
        "grpc_code": status.code,
        "http_code": http.as_u16(),
        "http_status": http.canonical_reason().unwrap_or(""),
        "code": status.code,
        "message": status.text,
        "details": [],
    }});
    format!("{body}\n").into()
}

/// Cuts a stream of JSON into the objects that it consists of, whatever pieces it comes in. Only
/// brackets and quotes are looked at, each byte once.
pub(super) struct Objects {
    held: BytesMut,
    /// So many bytes of it have been looked at.
    seen: usize,
    depth: usize,
    is_text: bool,
    is_escaped: bool,
    longest: usize,
}

impl Objects {
    pub(super) fn new(longest: usize) -> Objects {
        Objects {
            held: BytesMut::new(),
            seen: 0,
            depth: 0,
            is_text: false,
            is_escaped: false,
            longest,
        }
    }

    /// How much has arrived of objects that are not whole yet.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Takes in what has arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next object that is there whole.
    pub(super) fn next(&mut self) -> Result<Option<BytesMut>, Status> {
        if self.depth == 0 {
            let blank = self
                .held
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace());
            let blank = blank.count();
            self.held.advance(blank);
            match self.held.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(_) => return Err(malformed("an object was expected")),
            }
        }
        while let Some(byte) = self.held.get(self.seen) {
            self.seen += 1;
            if self.is_text {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.is_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.is_text = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                let seen = std::mem::take(&mut self.seen);
                return Ok(Some(self.held.split_to(seen)));
            }
        }
        if self.held.len() > self.longest {
            let longest = self.longest;
            return Err(Status::with_text(
                etcd::Code::ResourceExhausted,
                format!("the request is longer than {longest} bytes"),
            ));
        }
        Ok(None)
    }

    /// Nothing more will come.
    pub(super) fn finish(&self) -> Result<(), Status> {
        if self.depth > 0 {
            return Err(malformed("it ends within an object"));
        }
        Ok(())
    }
}
