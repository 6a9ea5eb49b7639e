//! Command records, byte by byte: what stands in the log for a request of etcd's API.
//!
//! ```text
//! record  = version:u8 (1)  [caller]  kind:u8  body                nothing may follow
//! caller  = 9:u8  user:bytes  revision:count                       who asks, if somebody signed in
//!
//! kind 1  put       flags:u8  key:bytes  value:bytes  [lease:int]
//!                   flags: 1 answer with the previous pair   2 ignore_value   4 ignore_lease
//!                          8 a lease follows
//! kind 2  delete    flags:u8  span
//!                   flags: 1 answer with the previous pairs
//! kind 3  txn       n:count  n x compare   n:count  n x operation   n:count  n x operation
//!                   compares; done if they hold; done if not
//! kind 4  compact   revision:int
//! kind 6  grant     id:int  seconds:int
//! kind 7  revoke    id:int
//! kind 8  change    see auth/change.rs
//!
//! operation = kind:u8  body                                        kinds 1, 2, 3 and
//! kind 5  range     flags:u8  span  [limit:int]  [revision:int]  [sort:u8]  [4 x int]
//!                   flags: 1 keys_only   2 count_only   4 a limit   8 a revision   16 a sort
//!                          32 min_mod, max_mod, min_create, max_create
//!                   sort: target + 16 x order, both as numbered by etcd
//!
//! compare = what:u8  span  [operand]
//!           what: target + 16 x relation. Targets 0 version, 1 create, 2 mod, 3 value, 4 lease,
//!           5 nothing; relations 0 equal, 1 greater, 2 less, 3 not equal, 4 any.
//!           operand: bytes for a value, none for nothing, else int
//!
//! span    = 0:u8  key:bytes               one key
//!         | 1:u8  key:bytes  end:bytes    up to `end`
//!         | 2:u8  key:bytes               all from `key` on
//! bytes   = length:count, then so many bytes
//! count   = unsigned LEB128, at most 10 bytes
//! int     = zigzag as count: 0, -1, 1, -2, ... -> 0, 1, 2, 3, ...
//! ```
//!
//! Decoding is total: whatever the bytes, it ends with a command that borrows from them, or with
//! an error; it takes memory in proportion to the bytes that are there, and a bounded stack. Bits
//! and numbers that mean nothing are refused, so that a later version may use them.

use super::{
    Command, Compare, DeleteRange, Filters, Grant, Operand, Operation, Put, Range, Relation, Sort,
    Txn,
};
use crate::auth::change::Change;
use crate::auth::gate::CallerRef;
use crate::limits::MAX_TXN_DEPTH;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::span::KeySpan;

/// The only version there is.
const VERSION: u8 = 1;

const PUT: u8 = 1;
const DELETE_RANGE: u8 = 2;
const TXN: u8 = 3;
const COMPACT: u8 = 4;
const RANGE: u8 = 5;
const GRANT: u8 = 6;
const REVOKE: u8 = 7;
const CHANGE: u8 = 8;

/// Stands where a kind would, and names the caller.
const CALLER: u8 = 9;

const PUT_PREVIOUS: u8 = 1;
const PUT_IGNORE_VALUE: u8 = 2;
const PUT_IGNORE_LEASE: u8 = 4;
const PUT_LEASE: u8 = 8;

const DELETE_PREVIOUS: u8 = 1;

const RANGE_KEYS_ONLY: u8 = 1;
const RANGE_COUNT_ONLY: u8 = 2;
const RANGE_LIMIT: u8 = 4;
const RANGE_REVISION: u8 = 8;
const RANGE_SORT: u8 = 16;
const RANGE_FILTERS: u8 = 32;

const SPAN_SINGLE: u8 = 0;
const SPAN_SPAN: u8 = 1;
const SPAN_FROM: u8 = 2;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Written by a version that this one does not know.
    UnknownVersion,
    /// Anything else.
    Malformed,
}

/// A command, and who asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record<'a> {
    /// `None` if nobody has signed in.
    pub(crate) caller: Option<CallerRef<'a>>,
    pub(crate) command: Command<'a>,
}

/// The record of a command.
pub(crate) fn encode(caller: Option<CallerRef<'_>>, command: &Command<'_>) -> Vec<u8> {
    let caller_bytes = caller.map_or(0, |caller| caller.user.len() + 2 * MAX_COUNT_BYTES);
    let mut out = Writer(Vec::with_capacity(size_hint(command) + caller_bytes));
    out.0.push(VERSION);
    if let Some(caller) = caller {
        out.0.push(CALLER);
        out.bytes(caller.user.as_bytes());
        out.count(caller.revision);
    }
    match command {
        Command::Put(put) => {
            out.0.push(PUT);
            out.put(put);
        }
        Command::DeleteRange(delete) => {
            out.0.push(DELETE_RANGE);
            out.delete_range(delete);
        }
        Command::Txn(txn) => {
            out.0.push(TXN);
            out.txn(txn);
        }
        Command::Compact(revision) => {
            out.0.push(COMPACT);
            out.int(*revision);
        }
        Command::Grant(grant) => {
            out.0.push(GRANT);
            out.int(grant.id);
            out.int(grant.ttl);
        }
        Command::Revoke(id) => {
            out.0.push(REVOKE);
            out.int(*id);
        }
        Command::Auth(change) => {
            out.0.push(CHANGE);
            change.write(&mut out);
        }
    }
    out.0
}

/// The most bytes that a count takes.
const MAX_COUNT_BYTES: usize = 10;

/// Enough for a put without growing; transactions grow as they go.
fn size_hint(command: &Command<'_>) -> usize {
    const FRAMING: usize = 32;
    match command {
        Command::Put(put) => FRAMING + put.key.len() + put.value.len(),
        Command::DeleteRange(_)
        | Command::Compact(_)
        | Command::Grant(_)
        | Command::Revoke(_)
        | Command::Auth(_) => FRAMING,
        Command::Txn(txn) => {
            let operations = txn.success.iter().chain(&txn.failure);
            let bytes = operations.map(|operation| match operation {
                Operation::Put(put) => FRAMING + put.key.len() + put.value.len(),
                _ => 2 * FRAMING,
            });
            FRAMING + txn.compares.len() * 2 * FRAMING + bytes.sum::<usize>()
        }
    }
}

/// Writes records.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn count(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(&mut self, value: i64) {
        self.count(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn span(&mut self, span: &KeySpan<'_>) {
        match span {
            KeySpan::Single(key) => {
                self.0.push(SPAN_SINGLE);
                self.bytes(key);
            }
            KeySpan::Span(start, end) => {
                self.0.push(SPAN_SPAN);
                self.bytes(start);
                self.bytes(end);
            }
            KeySpan::From(start) => {
                self.0.push(SPAN_FROM);
                self.bytes(start);
            }
        }
    }

    fn put(&mut self, put: &Put<'_>) {
        let flags = flag(PUT_PREVIOUS, put.previous)
            | flag(PUT_IGNORE_VALUE, put.ignore_value)
            | flag(PUT_IGNORE_LEASE, put.ignore_lease)
            | flag(PUT_LEASE, put.lease != 0);
        self.0.push(flags);
        self.bytes(put.key);
        self.bytes(put.value);
        if put.lease != 0 {
            self.int(put.lease);
        }
    }

    fn delete_range(&mut self, delete: &DeleteRange<'_>) {
        self.0.push(flag(DELETE_PREVIOUS, delete.previous));
        self.span(&delete.span);
    }

    fn range(&mut self, range: &Range<'_>) {
        let sort = range.sort.target as u8 + 16 * range.sort.order as u8;
        let filters = range.filters;
        let flags = flag(RANGE_KEYS_ONLY, range.keys_only)
            | flag(RANGE_COUNT_ONLY, range.count_only)
            | flag(RANGE_LIMIT, range.limit != 0)
            | flag(RANGE_REVISION, range.revision != 0)
            | flag(RANGE_SORT, sort != 0)
            | flag(RANGE_FILTERS, filters != Filters::default());
        self.0.push(flags);
        self.span(&range.span);
        if range.limit != 0 {
            self.int(range.limit);
        }
        if range.revision != 0 {
            self.int(range.revision);
        }
        if sort != 0 {
            self.0.push(sort);
        }
        if filters != Filters::default() {
            self.int(filters.min_mod);
            self.int(filters.max_mod);
            self.int(filters.min_create);
            self.int(filters.max_create);
        }
    }

    fn txn(&mut self, txn: &Txn<'_>) {
        self.count(txn.compares.len() as u64);
        for compare in &txn.compares {
            self.compare(compare);
        }
        for operations in [&txn.success, &txn.failure] {
            self.count(operations.len() as u64);
            for operation in operations {
                self.operation(operation);
            }
        }
    }

    fn operation(&mut self, operation: &Operation<'_>) {
        match operation {
            Operation::Range(range) => {
                self.0.push(RANGE);
                self.range(range);
            }
            Operation::Put(put) => {
                self.0.push(PUT);
                self.put(put);
            }
            Operation::DeleteRange(delete) => {
                self.0.push(DELETE_RANGE);
                self.delete_range(delete);
            }
            Operation::Txn(txn) => {
                self.0.push(TXN);
                self.txn(txn);
            }
        }
    }

    fn compare(&mut self, compare: &Compare<'_>) {
        let target = match compare.operand {
            Operand::Version(_) => 0,
            Operand::CreateRevision(_) => 1,
            Operand::ModRevision(_) => 2,
            Operand::Value(_) => 3,
            Operand::Lease(_) => 4,
            Operand::Nothing => 5,
        };
        let relation = match compare.relation {
            Relation::Equal => 0,
            Relation::Greater => 1,
            Relation::Less => 2,
            Relation::NotEqual => 3,
            Relation::Any => 4,
        };
        self.0.push(target + 16 * relation);
        self.span(&compare.span);
        match compare.operand {
            Operand::Version(number)
            | Operand::CreateRevision(number)
            | Operand::ModRevision(number)
            | Operand::Lease(number) => self.int(number),
            Operand::Value(value) => self.bytes(value),
            Operand::Nothing => {}
        }
    }
}

fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

/// What stands in a record.
pub(crate) fn decode(record: &[u8]) -> Result<Record<'_>, Damage> {
    let mut reader = Reader(record);
    if reader.byte()? != VERSION {
        return Err(Damage::UnknownVersion);
    }
    let (mut kind, mut caller) = (reader.byte()?, None);
    if kind == CALLER {
        caller = Some(CallerRef {
            user: reader.text()?,
            revision: reader.count()?,
        });
        kind = reader.byte()?;
    }
    let command = match kind {
        PUT => Command::Put(reader.put()?),
        DELETE_RANGE => Command::DeleteRange(reader.delete_range()?),
        TXN => Command::Txn(reader.txn(MAX_TXN_DEPTH)?),
        COMPACT => Command::Compact(reader.int()?),
        GRANT => Command::Grant(Grant {
            id: reader.int()?,
            ttl: reader.int()?,
        }),
        REVOKE => Command::Revoke(reader.int()?),
        CHANGE => Command::Auth(Change::read(&mut reader)?),
        _ => return Err(Damage::Malformed),
    };
    if reader.0.is_empty() {
        Ok(Record { caller, command })
    } else {
        Err(Damage::Malformed)
    }
}

/// Reads records.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8, Damage> {
        let (first, rest) = self.0.split_first().ok_or(Damage::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A byte of which only `known` bits may be set.
    fn flags(&mut self, known: u8) -> Result<u8, Damage> {
        let flags = self.byte()?;
        if flags & !known == 0 {
            Ok(flags)
        } else {
            Err(Damage::Malformed)
        }
    }

    fn count(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(Damage::Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage::Malformed)
    }

    fn int(&mut self) -> Result<i64, Damage> {
        let value = self.count()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A number of things of at least one byte each, so never more than bytes are left.
    fn length(&mut self) -> Result<usize, Damage> {
        let length = usize::try_from(self.count()?).map_err(|_| Damage::Malformed)?;
        if length <= self.0.len() {
            Ok(length)
        } else {
            Err(Damage::Malformed)
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damage::Malformed)
    }

    fn span(&mut self) -> Result<KeySpan<'a>, Damage> {
        match self.byte()? {
            SPAN_SINGLE => Ok(KeySpan::Single(self.bytes()?)),
            SPAN_SPAN => Ok(KeySpan::Span(self.bytes()?, self.bytes()?)),
            SPAN_FROM => Ok(KeySpan::From(self.bytes()?)),
            _ => Err(Damage::Malformed),
        }
    }

    fn put(&mut self) -> Result<Put<'a>, Damage> {
        let known = PUT_PREVIOUS | PUT_IGNORE_VALUE | PUT_IGNORE_LEASE | PUT_LEASE;
        let flags = self.flags(known)?;
        Ok(Put {
            key: self.bytes()?,
            value: self.bytes()?,
            lease: if flags & PUT_LEASE != 0 {
                self.int()?
            } else {
                0
            },
            previous: flags & PUT_PREVIOUS != 0,
            ignore_value: flags & PUT_IGNORE_VALUE != 0,
            ignore_lease: flags & PUT_IGNORE_LEASE != 0,
        })
    }

    fn delete_range(&mut self) -> Result<DeleteRange<'a>, Damage> {
        let flags = self.flags(DELETE_PREVIOUS)?;
        Ok(DeleteRange {
            previous: flags & DELETE_PREVIOUS != 0,
            span: self.span()?,
        })
    }

    fn range(&mut self) -> Result<Range<'a>, Damage> {
        let known = RANGE_KEYS_ONLY
            | RANGE_COUNT_ONLY
            | RANGE_LIMIT
            | RANGE_REVISION
            | RANGE_SORT
            | RANGE_FILTERS;
        let flags = self.flags(known)?;
        Ok(Range {
            span: self.span()?,
            limit: if flags & RANGE_LIMIT != 0 {
                self.int()?
            } else {
                0
            },
            revision: if flags & RANGE_REVISION != 0 {
                self.int()?
            } else {
                0
            },
            sort: if flags & RANGE_SORT != 0 {
                self.sort()?
            } else {
                Sort::default()
            },
            keys_only: flags & RANGE_KEYS_ONLY != 0,
            count_only: flags & RANGE_COUNT_ONLY != 0,
            filters: if flags & RANGE_FILTERS != 0 {
                self.filters()?
            } else {
                Filters::default()
            },
        })
    }

    fn sort(&mut self) -> Result<Sort, Damage> {
        let byte = self.byte()?;
        let target = SortTarget::try_from(i32::from(byte & 15)).map_err(|_| Damage::Malformed)?;
        let order = SortOrder::try_from(i32::from(byte >> 4)).map_err(|_| Damage::Malformed)?;
        Ok(Sort { target, order })
    }

    fn filters(&mut self) -> Result<Filters, Damage> {
        Ok(Filters {
            min_mod: self.int()?,
            max_mod: self.int()?,
            min_create: self.int()?,
            max_create: self.int()?,
        })
    }

    fn txn(&mut self, depth_left: usize) -> Result<Txn<'a>, Damage> {
        let depth_left = depth_left.checked_sub(1).ok_or(Damage::Malformed)?;
        let mut txn = Txn {
            compares: Vec::new(),
            success: Vec::new(),
            failure: Vec::new(),
        };
        for _ in 0..self.length()? {
            txn.compares.push(self.compare()?);
        }
        for operations in [&mut txn.success, &mut txn.failure] {
            for _ in 0..self.length()? {
                operations.push(self.operation(depth_left)?);
            }
        }
        Ok(txn)
    }

    fn operation(&mut self, depth_left: usize) -> Result<Operation<'a>, Damage> {
        match self.byte()? {
            RANGE => Ok(Operation::Range(self.range()?)),
            PUT => Ok(Operation::Put(self.put()?)),
            DELETE_RANGE => Ok(Operation::DeleteRange(self.delete_range()?)),
            TXN => Ok(Operation::Txn(self.txn(depth_left)?)),
            _ => Err(Damage::Malformed),
        }
    }

    fn compare(&mut self) -> Result<Compare<'a>, Damage> {
        let what = self.byte()?;
        let span = self.span()?;
        let operand = match what & 15 {
            0 => Operand::Version(self.int()?),
            1 => Operand::CreateRevision(self.int()?),
            2 => Operand::ModRevision(self.int()?),
            3 => Operand::Value(self.bytes()?),
            4 => Operand::Lease(self.int()?),
            5 => Operand::Nothing,
            _ => return Err(Damage::Malformed),
        };
        let relation = match what >> 4 {
            0 => Relation::Equal,
            1 => Relation::Greater,
            2 => Relation::Less,
            3 => Relation::NotEqual,
            4 => Relation::Any,
            _ => return Err(Damage::Malformed),
        };
        Ok(Compare {
            span,
            relation,
            operand,
        })
    }
}

#[cfg(test)]
mod tests;
