//! Ranges: which keys, in which order, how many, and what is said about the rest.
//!
//! etcd's order of work, which shows in the answers: fetch in key order (only as many as the limit
//! asks for if the order allows it), leave out what the filters exclude, sort, cut at the limit.
//! `count` always tells the keys of the whole range, `more` that the limit cut some off.
//!
//! Values are shared with the state, never copied.

use std::cmp::Ordering;

use state::{KeyValue, Revision};

use crate::budget::{ReadBudget, Stop};
use crate::command::{Filters, Range, Sort};
use crate::error::Error;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::mvccpb;
use crate::range_stream::RangePiece;
use crate::request::header;
use crate::span::KeySpan;
use crate::view::{View, key_range};

/// Answers a range. `oldest` is the oldest revision that can be read.
pub(crate) fn read(
    view: &impl View,
    oldest: i64,
    range: &Range<'_>,
    budget: &mut ReadBudget,
) -> Result<RangeResponse, Stop> {
    let at = resolve(view, oldest, range.revision)?;
    let mut response = RangeResponse {
        header: header(view.revision()),
        ..RangeResponse::default()
    };
    match range.span {
        KeySpan::Single(key) => read_single(view, key, at, range, budget, &mut response)?,
        _ if range.span.is_empty() => {}
        _ if range.count_only => response.count = count(view, at, range, budget)?,
        _ => read_span(view, at, range, budget, &mut response)?,
    }
    Ok(response)
}

/// What a piece of a range holds at most (but always one key), whatever else its reader may do.
const PIECE: ReadBudget = ReadBudget::new(1_000, 1 << 20);

/// Answers a piece of a range: as many keys as the limit, the budget and [`PIECE`] allow, at least
/// one if there is one; `more` says that there are others. `count` is that of the whole range in a
/// first piece that reads the latest revision, where it costs nothing, and else -1.
pub(crate) fn read_piece(
    view: &impl View,
    oldest: i64,
    piece: &RangePiece,
    budget: &mut ReadBudget,
) -> Result<RangeResponse, Stop> {
    let range = Range::from(&piece.request);
    let at = resolve(view, oldest, range.revision)?;
    let mut response = RangeResponse {
        header: header(view.revision()),
        count: -1,
        ..RangeResponse::default()
    };
    let is_empty = range.span.is_empty();
    let keys = key_range(&range.span);
    if piece.is_first && (at.is_none() || is_empty) {
        response.count = if is_empty {
            0
        } else {
            view.count(&keys, at) as i64
        };
    }
    if is_empty {
        return Ok(response);
    }
    let limit = range.limit();
    let mut room = PIECE;
    for found in view.looks(&keys, at) {
        let Some(found) = found else {
            match budget.charge(0) {
                Ok(()) => continue,
                // There is no key yet from which the next piece could go on.
                Err(stop) if response.kvs.is_empty() => return Err(stop),
                Err(_) => {
                    response.more = true;
                    break;
                }
            }
        };
        let is_full = limit.is_some_and(|limit| response.kvs.len() >= limit);
        let bytes = bytes(&found, &range);
        let is_spent = budget.charge(bytes).is_err() | room.charge(bytes).is_err();
        if is_full || (is_spent && !response.kvs.is_empty()) {
            response.more = true;
            break;
        }
        response.kvs.push(pair(found, &range));
    }
    Ok(response)
}

/// The revision to read at; `None`: the latest.
fn resolve(view: &impl View, oldest: i64, revision: i64) -> Result<Option<Revision>, Error> {
    let latest = view.revision();
    if revision > latest {
        return Err(Error::FutureRevision);
    }
    if revision <= 0 || revision == latest {
        return Ok(None);
    }
    if revision < oldest {
        Err(Error::Compacted)
    } else {
        Ok(Some(Revision(revision)))
    }
}

fn read_single(
    view: &impl View,
    key: &[u8],
    at: Option<Revision>,
    range: &Range<'_>,
    budget: &mut ReadBudget,
    response: &mut RangeResponse,
) -> Result<(), Stop> {
    if let Some(found) = view.get(key, at) {
        budget.charge(bytes(&found, range))?;
        response.count = 1;
        if !range.count_only && range.filters.let_pass(&found) {
            response.kvs.push(pair(found, range));
        }
    }
    Ok(())
}

fn count(
    view: &impl View,
    at: Option<Revision>,
    range: &Range<'_>,
    budget: &mut ReadBudget,
) -> Result<i64, Stop> {
    let keys = key_range(&range.span);
    if at.is_none() || *budget == ReadBudget::UNLIMITED {
        return Ok(view.count(&keys, at) as i64);
    }
    let mut count = 0;
    for found in view.looks(&keys, at) {
        budget.charge(found.as_ref().map_or(0, |found| found.key.len()))?;
        count += i64::from(found.is_some());
    }
    Ok(count)
}

fn read_span(
    view: &impl View,
    at: Option<Revision>,
    range: &Range<'_>,
    budget: &mut ReadBudget,
    response: &mut RangeResponse,
) -> Result<(), Stop> {
    let keys = key_range(&range.span);
    let limit = range.limit();
    let enough = range.enough();
    let total = at.is_none().then(|| view.count(&keys, None));
    if let Some(total) = total {
        let fetched = range.fetched(total);
        if !budget.has_keys(fetched) {
            return Err(Stop::TooLarge);
        }
        if !range.is_filtered() {
            response.kvs.reserve_exact(fetched as usize);
        }
    }

    let mut examined = 0;
    let mut found = view.looks(&keys, at);
    for key_value in found.by_ref() {
        let Some(key_value) = key_value else {
            budget.charge(0)?;
            continue;
        };
        examined += 1;
        budget.charge(bytes(&key_value, range))?;
        if !range.filters.let_pass(&key_value) {
            continue;
        }
        response.kvs.push(pair_to_sort(key_value, range));
        if Some(response.kvs.len() as u64) == enough {
            break;
        }
    }
    response.count = match total {
        Some(total) => total as i64,
        None => {
            for key_value in found {
                budget.charge(key_value.as_ref().map_or(0, |found| found.key.len()))?;
                examined += i64::from(key_value.is_some());
            }
            examined
        }
    };

    sort(&mut response.kvs, range.sort);
    if let Some(limit) = limit
        && response.kvs.len() > limit
    {
        response.kvs.truncate(limit);
        response.more = true;
    }
    if range.keys_only {
        response.kvs.iter_mut().for_each(|pair| pair.value.clear());
    }
    Ok(())
}

impl Range<'_> {
    fn limit(&self) -> Option<usize> {
        usize::try_from(self.limit).ok().filter(|limit| *limit > 0)
    }

    /// How many keys are fetched at most. One more than the limit shows whether there are more.
    fn enough(&self) -> Option<u64> {
        let limit = self.limit().filter(|_| self.stops_early());
        limit.map(|limit| (limit as u64).saturating_add(1))
    }

    /// How many keys are fetched at most of a span that has so many.
    pub(crate) fn fetched(&self, total: u64) -> u64 {
        self.enough().map_or(total, |enough| total.min(enough))
    }

    /// The keys fetched first are the ones wanted, so fetching may stop at the limit. An order of
    /// `NONE` by something else than the key sorts only what was fetched: etcd's way; but then it
    /// fetches everything as soon as there are filters.
    fn stops_early(&self) -> bool {
        match (self.sort.target, self.sort.order) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => true,
            (_, SortOrder::None) => !self.is_filtered(),
            _ => false,
        }
    }

    /// Whether some of the keys of the span may not be wanted, so that all have to be looked at.
    pub(crate) fn is_filtered(&self) -> bool {
        self.filters != Filters::default()
    }
}

impl Filters {
    fn let_pass(&self, found: &KeyValue) -> bool {
        let within = |revision: i64, min: i64, max: i64| {
            (min == 0 || revision >= min) && (max == 0 || revision <= max)
        };
        within(found.mod_revision, self.min_mod, self.max_mod)
            && within(found.create_revision, self.min_create, self.max_create)
    }
}

/// Keys that are equal in what is sorted by stay in the order of their keys.
fn sort(pairs: &mut [mvccpb::KeyValue], sort: Sort) {
    let compare: fn(&mvccpb::KeyValue, &mvccpb::KeyValue) -> Ordering = match sort.target {
        SortTarget::Key if sort.order == SortOrder::Descend => return pairs.reverse(),
        SortTarget::Key => return,
        SortTarget::Version => |one, other| one.version.cmp(&other.version),
        SortTarget::Create => |one, other| one.create_revision.cmp(&other.create_revision),
        SortTarget::Mod => |one, other| one.mod_revision.cmp(&other.mod_revision),
        SortTarget::Value => |one, other| one.value.cmp(&other.value),
    };
    match sort.order {
        SortOrder::None | SortOrder::Ascend => pairs.sort_by(compare),
        SortOrder::Descend => pairs.sort_by(|one, other| compare(other, one)),
    }
}

/// What looking at a key costs: its value only if it is looked at.
fn bytes(found: &KeyValue, range: &Range<'_>) -> usize {
    let value = if range.keys_only || range.count_only {
        0
    } else {
        found.value.len()
    };
    found.key.len() + value
}

/// A key as it goes into the answer. Without its value, it goes without its lease, too: etcd
/// answers that from its index, which knows neither.
fn pair(found: KeyValue, range: &Range<'_>) -> mvccpb::KeyValue {
    let mut pair = pair_to_sort(found, range);
    if range.keys_only {
        pair.value.clear();
    }
    pair
}

/// The same, with a value, since it may be what is sorted by: then etcd has read the pair itself,
/// and the lease stays.
fn pair_to_sort(found: KeyValue, range: &Range<'_>) -> mvccpb::KeyValue {
    let is_from_index = range.keys_only && range.sort.target != SortTarget::Value;
    let lease = if is_from_index { 0 } else { found.lease };
    mvccpb::KeyValue {
        lease,
        ..whole_pair(found)
    }
}

/// A key with all that is known about it.
pub(crate) fn whole_pair(found: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: found.key,
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
        value: found.value,
        lease: found.lease,
    }
}
