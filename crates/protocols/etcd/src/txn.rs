//! Transactions: which branch is taken, and whether what stands in it can be done.
//!
//! Both are decided on the state *before* the transaction, for nested transactions as well: all
//! comparisons first, then all checks of the operations in the branches taken; only then is
//! anything done. So whatever can fail has failed before the first write.
//!
//! What a transaction may look at is bounded as well, in proportion to what the state holds: each
//! of its operations may name the whole state, and there may be thousands of them.

use std::cmp::Ordering;

use state::{KeyValue, LeaseId, Reader, Revision};

use crate::budget::{ReadBudget, Stop};
use crate::command::{Compare, Operand, Operation, Put, Range, Relation, Txn};
use crate::error::Error;
use crate::span::KeySpan;
use crate::view::{View, key_range, oldest_revision};

/// For the transaction and each nested one on the branches taken, in the order in which they are
/// met: whether the conditions hold.
#[derive(Debug, Default)]
pub(crate) struct Branches(Vec<bool>);

impl Branches {
    /// Compares.
    pub(crate) fn decide(
        base: &Reader,
        txn: &Txn<'_>,
        budget: &mut ReadBudget,
    ) -> Result<Branches, Stop> {
        let mut branches = Branches::default();
        branches.add(base, txn, budget)?;
        Ok(branches)
    }

    fn add(&mut self, base: &Reader, txn: &Txn<'_>, budget: &mut ReadBudget) -> Result<(), Stop> {
        let mut succeeded = true;
        for compare in &txn.compares {
            if !holds(base, compare, budget)? {
                succeeded = false;
                break;
            }
        }
        self.0.push(succeeded);
        for operation in branch(txn, succeeded) {
            if let Operation::Txn(nested) = operation {
                self.add(base, nested, budget)?;
            }
        }
        Ok(())
    }

    /// One decision after the other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        self.0.iter().copied()
    }
}

/// The operations of the branch taken.
pub(crate) fn branch<'t, 'a>(txn: &'t Txn<'a>, succeeded: bool) -> &'t [Operation<'a>] {
    if succeeded {
        &txn.success
    } else {
        &txn.failure
    }
}

/// What a transaction may still look at and answer, in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Keys looked at, a second's work or two.
    looks: u64,
    /// Keys found by ranges, which are all held until the answer is sent.
    found: u64,
    /// Keys that the operations so far write. Each later one that names a span may look at all of
    /// them.
    written: u64,
}

impl Work {
    /// So that one look at everything that is there is always allowed. These numbers say what a
    /// command does: others need a new level.
    pub(crate) fn allowed(base: &Reader) -> Work {
        let keys = base.key_count();
        Work {
            looks: keys.saturating_mul(2).saturating_add(10_000_000),
            found: keys.saturating_add(1_000_000),
            written: 0,
        }
    }

    /// No more looks than a read's budget has.
    pub(crate) fn within(self, budget: &ReadBudget) -> Work {
        Work {
            looks: self.looks.min(budget.keys),
            ..self
        }
    }

    /// The part of it that comparisons may have.
    pub(crate) fn budget(&self) -> ReadBudget {
        ReadBudget::new(self.looks, u64::MAX)
    }

    fn look(&mut self, keys: u64) -> Result<(), Error> {
        self.looks = self.looks.checked_sub(keys).ok_or(Error::TxnTooLarge)?;
        Ok(())
    }

    /// Walks what a range at an older revision has to, since nothing tells it beforehand.
    fn walk(&mut self, base: &Reader, range: &Range<'_>, at: Revision) -> Result<u64, Error> {
        let mut found = 0;
        for look in base.looks(&key_range(&range.span), Some(at)) {
            self.look(1)?;
            found += u64::from(look.is_some());
        }
        Ok(found)
    }

    fn range(&mut self, base: &Reader, range: &Range<'_>) -> Result<(), Error> {
        self.look(1)?;
        if matches!(range.span, KeySpan::Single(_)) || range.span.is_empty() {
            return Ok(());
        }
        // What was the latest revision is an older one after a write.
        let is_latest =
            range.revision <= 0 || (range.revision == View::revision(base) && self.written == 0);
        let total = match is_latest {
            true => View::count(base, &key_range(&range.span), None),
            false => self.walk(base, range, Revision(range.revision))?,
        };
        if is_latest {
            self.look(self.written)?;
        }
        if range.count_only {
            return Ok(());
        }
        let found = range.fetched(total);
        if is_latest {
            self.look(if range.is_filtered() { total } else { found })?;
        }
        self.found = self.found.checked_sub(found).ok_or(Error::TxnTooLarge)?;
        Ok(())
    }

    fn put(&mut self) {
        self.written += 1;
    }

    fn delete(&mut self, base: &Reader, span: &KeySpan<'_>) -> Result<(), Error> {
        self.look(1)?;
        let deleted = match span {
            KeySpan::Single(_) => 1,
            span if span.is_empty() => 0,
            span => {
                let total = View::count(base, &key_range(span), None);
                self.look(total.saturating_add(self.written))?;
                total
            }
        };
        self.written = self.written.saturating_add(deleted);
        Ok(())
    }
}

/// Checks the operations of the branches taken, in their order.
pub(crate) fn check(
    base: &Reader,
    txn: &Txn<'_>,
    branches: &mut dyn Iterator<Item = bool>,
    work: &mut Work,
) -> Result<(), Error> {
    for operation in branch(txn, next(branches)) {
        match operation {
            Operation::Range(range) => {
                check_range(base, range)?;
                work.range(base, range)?;
            }
            Operation::Put(put) => {
                check_put(base, put)?;
                work.put();
            }
            Operation::DeleteRange(delete) => work.delete(base, &delete.span)?,
            Operation::Txn(nested) => check(base, nested, branches, work)?,
        }
    }
    Ok(())
}

/// The decision for the transaction that is met next.
pub(crate) fn next(branches: &mut dyn Iterator<Item = bool>) -> bool {
    branches
        .next()
        .expect("each transaction on the branches taken has been decided")
}

fn check_range(base: &Reader, range: &Range<'_>) -> Result<(), Error> {
    match range.revision {
        0 => Ok(()),
        revision if revision > View::revision(base) => Err(Error::FutureRevision),
        revision if revision < oldest_revision(base) => Err(Error::Compacted),
        _ => Ok(()),
    }
}

/// Checks what a put needs of the state before it.
pub(crate) fn check_put(base: &Reader, put: &Put<'_>) -> Result<(), Error> {
    if put.lease != 0 && base.lease(LeaseId(put.lease)).is_none() {
        return Err(Error::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && View::get(base, put.key, None).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// Whether a condition holds for each key of its span; if there is none, for a key of which
/// everything is zero. A missing value, though, is never equal nor unequal to anything.
fn holds(base: &Reader, compare: &Compare<'_>, budget: &mut ReadBudget) -> Result<bool, Stop> {
    let mut found_any = false;
    let mut check = |found: KeyValue| {
        found_any = true;
        budget.charge(found.key.len() + found.value.len())?;
        Ok::<bool, Stop>(holds_for(compare, &found))
    };
    match compare.span {
        KeySpan::Single(key) => {
            if let Some(found) = View::get(base, key, None)
                && !check(found)?
            {
                return Ok(false);
            }
        }
        span if span.is_empty() => {}
        span => {
            for found in View::range(base, &key_range(&span), None) {
                if !check(found)? {
                    return Ok(false);
                }
            }
        }
    }
    if found_any {
        return Ok(true);
    }
    let is_value = matches!(compare.operand, Operand::Value(_));
    Ok(!is_value && holds_for(compare, &KeyValue::default()))
}

fn holds_for(compare: &Compare<'_>, found: &KeyValue) -> bool {
    let ordering = match compare.operand {
        Operand::Version(version) => found.version.cmp(&version),
        Operand::CreateRevision(revision) => found.create_revision.cmp(&revision),
        Operand::ModRevision(revision) => found.mod_revision.cmp(&revision),
        Operand::Value(value) => found.value.as_ref().cmp(value),
        Operand::Lease(lease) => found.lease.cmp(&lease),
        Operand::Nothing => Ordering::Equal,
    };
    match compare.relation {
        Relation::Equal => ordering.is_eq(),
        Relation::Greater => ordering.is_gt(),
        Relation::Less => ordering.is_lt(),
        Relation::NotEqual => ordering.is_ne(),
        Relation::Any => true,
    }
}
