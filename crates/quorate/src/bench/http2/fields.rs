//! Header fields (HPACK, RFC 7541): what we send, and what comes back.
//!
//! ```text
//!   request    first of its kind: literals that the server's table keeps
//!              every other:       seven bytes (eight with a token), each an index
//!   response   we allow no table: equal bytes mean equal fields, and servers send the same
//!              few blocks all day, so a block is decoded once and found again by its bytes
//! ```
//!
//! So requests look to the server like those of any client that stays connected, and a response
//! costs a comparison. Only the blocks of a failure are decoded each time.

use std::sync::Arc;

use loona_hpack::Decoder;

/// The table that a server keeps for us unless it says otherwise (RFC 9113, section 6.5.2). All we
/// put into it is far smaller, so nothing is ever evicted.
const TABLE_BYTES: u32 = 4096;

/// How many different blocks are remembered. A response has two kinds, and a date may be in one.
const REMEMBERED_MAX: usize = 8;

/// The block of fields of a response, or of what follows its body, as far as gRPC needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// `:status`
    pub(crate) http_status: Option<u16>,
    /// `grpc-status`: 0 is success.
    pub(crate) grpc_status: Option<u32>,
    /// `grpc-message`, decoded.
    pub(crate) grpc_message: String,
}

/// Decodes the blocks of one connection.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    remembered: Vec<(Vec<u8>, Fields)>,
    /// Which is forgotten next.
    oldest: usize,
}

impl Responses {
    /// The fields of a block.
    ///
    /// # Errors
    /// It is not HPACK, or uses a table that we did not allow.
    pub(crate) fn decode(&mut self, block: &[u8]) -> Result<&Fields, String> {
        let known = self.remembered.iter().position(|(bytes, _)| bytes == block);
        let place = match known {
            Some(place) => place,
            None => self.remember(block, decode(block)?),
        };
        Ok(&self.remembered[place].1)
    }

    fn remember(&mut self, block: &[u8], fields: Fields) -> usize {
        let entry = (block.to_vec(), fields);
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.push(entry);
            return self.remembered.len() - 1;
        }
        let place = self.oldest;
        self.oldest = (place + 1) % REMEMBERED_MAX;
        self.remembered[place] = entry;
        place
    }
}

/// Decodes a block by itself, without any table but the static one.
fn decode(block: &[u8]) -> Result<Fields, String> {
    let mut decoder = Decoder::new();
    decoder.set_max_table_size(0);
    decoder.set_max_allowed_table_size(0);
    let mut fields = Fields::default();
    let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u32>().ok();
    decoder
        .decode_with_cb(block, |name, value| match &*name {
            b":status" => {
                fields.http_status = number(&value).and_then(|code| u16::try_from(code).ok());
            }
            b"grpc-status" => fields.grpc_status = Some(number(&value).unwrap_or(2)),
            b"grpc-message" => fields.grpc_message = percent_decoded(&value),
            _ => {}
        })
        .map_err(|error| format!("header fields that cannot be decoded: {error:?}"))?;
    Ok(fields)
}

/// `grpc-message` escapes everything but plain ASCII as `%xx`.
fn percent_decoded(value: &[u8]) -> String {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%'
            && let (Some(high), Some(low)) = (digit(after.first()), digit(after.get(1)))
        {
            decoded.push(high << 4 | low);
            rest = &after[2..];
        } else {
            decoded.push(*first);
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Encodes the requests of one connection.
#[derive(Debug)]
pub(crate) struct Requests {
    authority: String,
    /// What the server has given the user to show.
    token: Option<Arc<str>>,
    /// What the server's table holds by now, oldest first.
    table: Vec<Field>,
    indexed: bool,
}

/// A field that the static table of HPACK does not hold as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Authority,
    ContentType,
    Trailers,
    UserAgent,
    Token,
    Path(&'static str),
}

impl Requests {
    /// `authority`: `host:port`, as the server is called.
    pub(crate) fn new(authority: &str, token: Option<&Arc<str>>) -> Requests {
        Requests {
            authority: authority.to_owned(),
            token: token.cloned(),
            table: Vec::new(),
            indexed: true,
        }
    }

    /// The server says how large its table is; false if it takes back what we use already.
    pub(crate) fn table_allowed(&mut self, bytes: u32) -> bool {
        if bytes >= TABLE_BYTES {
            return true;
        }
        self.indexed = false;
        self.table.is_empty()
    }

    /// Writes the block of a call: `path` is `/service/method`.
    pub(crate) fn encode(&mut self, path: &'static str, out: &mut Vec<u8>) {
        // `:method: POST` and `:scheme: http` are entries 3 and 6 of the static table.
        out.extend_from_slice(&[0x83, 0x86]);
        let fields = [
            Field::Path(path),
            Field::Authority,
            Field::ContentType,
            Field::Trailers,
            Field::UserAgent,
        ];
        let token = self.token.as_ref().map(|_| Field::Token);
        for field in fields.into_iter().chain(token) {
            self.encode_field(field, out);
        }
    }

    fn encode_field(&mut self, field: Field, out: &mut Vec<u8>) {
        /// Entries of the static table; our own follow, the newest first.
        const STATIC: usize = 61;
        if let Some(place) = self.table.iter().position(|known| *known == field) {
            let index = STATIC + self.table.len() - place;
            put_integer(out, 0x80, 7, index);
            return;
        }
        let (name_index, name, value) = match field {
            Field::Path(path) => (4, "", path),
            Field::Authority => (1, "", self.authority.as_str()),
            Field::ContentType => (31, "", "application/grpc"),
            Field::Trailers => (0, "te", "trailers"),
            Field::UserAgent => (58, "", "quorate-bench"),
            Field::Token => (0, "token", self.token.as_deref().unwrap_or_default()),
        };
        if self.indexed {
            put_integer(out, 0x40, 6, name_index);
        } else {
            put_integer(out, 0x00, 4, name_index);
        }
        if name_index == 0 {
            put_text(out, name);
        }
        put_text(out, value);
        if self.indexed {
            self.table.push(field);
        }
    }
}

/// An integer whose first `bits` bits share a byte with `pattern` (RFC 7541, section 5.1).
fn put_integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a decoder that has seen all blocks so far makes of one.
    fn decoded(decoder: &mut Decoder<'_>, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder
            .decode_with_cb(block, |name, value| {
                fields.push((text(&name), text(&value)))
            })
            .unwrap();
        fields
    }

    fn expected(path: &str) -> Vec<(String, String)> {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "host:1"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "quorate-bench"),
        ];
        fields
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    #[test]
    fn requests_mean_the_same_with_and_without_a_table() {
        for table in [4096, 0] {
            let mut requests = Requests::new("host:1", None);
            assert!(requests.table_allowed(table));
            let mut decoder = Decoder::new();
            for path in ["/a/B", "/a/B", "/c/D", "/a/B", "/c/D"] {
                let mut block = Vec::new();
                requests.encode(path, &mut block);
                assert_eq!(decoded(&mut decoder, &block), expected(path));
            }
        }
    }

    #[test]
    fn a_token_is_shown_with_every_request_and_sent_once() {
        let token = Arc::from("t".repeat(200));
        let mut requests = Requests::new("host:1", Some(&token));
        let mut decoder = Decoder::new();
        for length in [300, 8] {
            let mut block = Vec::new();
            requests.encode("/a/B", &mut block);
            assert!(block.len() <= length, "{}", block.len());
            let mut fields = expected("/a/B");
            fields.push(("token".to_owned(), token.to_string()));
            assert_eq!(decoded(&mut decoder, &block), fields);
        }
    }

    #[test]
    fn a_repeated_request_is_seven_bytes() {
        let mut requests = Requests::new("host:1", None);
        let mut block = Vec::new();
        requests.encode("/a/B", &mut block);
        block.clear();
        requests.encode("/a/B", &mut block);
        assert_eq!(block.len(), 7);
        assert!(!requests.table_allowed(0), "its table is in use");
    }

    /// Blocks as hyper and grpc-go write them to a client without a table.
    #[test]
    fn responses_are_understood_and_remembered() {
        let mut responses = Responses::default();
        let mut block = vec![0x20, 0x88];
        put_integer(&mut block, 0x00, 4, 31);
        put_text(&mut block, "application/grpc");
        for _ in 0..2 {
            let fields = responses.decode(&block).unwrap();
            assert_eq!((fields.http_status, fields.grpc_status), (Some(200), None));
        }
        let mut block = vec![0x00];
        put_text(&mut block, "grpc-status");
        put_text(&mut block, "14");
        block.push(0x00);
        put_text(&mut block, "grpc-message");
        put_text(&mut block, "no%20leader%");
        let fields = responses.decode(&block).unwrap();
        assert_eq!(
            (fields.grpc_status, fields.grpc_message.as_str()),
            (Some(14), "no leader%")
        );
        assert_eq!(responses.remembered.len(), 2);
    }

    proptest::proptest! {
        /// Lengths that overflow, indices that are nowhere, text that is no Huffman code.
        #[test]
        fn hostile_blocks_do_no_harm(
            block in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::prelude::any::<u8>(),
                    proptest::sample::select(vec![0x00, 0x0f, 0x1f, 0x3f, 0x40, 0x7f, 0x80, 0xff]),
                ],
                0..40,
            ),
        ) {
            let mut responses = Responses::default();
            let first = responses.decode(&block).cloned();
            let again = responses.decode(&block).cloned();
            proptest::prop_assert_eq!(first, again);
        }
    }

    #[test]
    fn memory_for_blocks_is_bounded() {
        let mut responses = Responses::default();
        for code in 0..100 {
            let mut block = vec![0x00];
            put_text(&mut block, "grpc-status");
            put_text(&mut block, &code.to_string());
            for _ in 0..2 {
                let fields = responses.decode(&block).unwrap();
                assert_eq!(fields.grpc_status, Some(code));
            }
        }
        assert_eq!(responses.remembered.len(), REMEMBERED_MAX);
    }

    #[test]
    fn a_table_that_was_not_allowed_is_refused() {
        // Entry 62 is the first of the dynamic table.
        assert!(decode(&[0xbe]).is_err());
        assert!(decode(&[0x3f, 0xe1, 0x1f]).is_err(), "it makes itself one");
    }
}
