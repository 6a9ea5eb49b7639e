//! etcd's keyspace as a sequential model for the generic search: slow, and independent of how
//! [`super::revisions`] finds its order. It judges reads, puts, deletes and transactions.

use crate::history::{Initial, Request, Response, Revision};
use crate::oracle::Store;

use super::generic::Model;
use crate::same_answer::is_same;

/// The model; its operations are requests, its results an answer with the header's revision.
#[derive(Clone, Debug, Default)]
pub struct Keyspace {
    /// What it begins with.
    pub initial: Initial,
}

impl Model for Keyspace {
    type State = Store;
    type Operation = Request;
    type Result = (Revision, Response);

    fn init(&self) -> Store {
        Store::new(&self.initial)
    }

    fn step(
        &self,
        state: &Store,
        request: &Request,
        result: Option<&(Revision, Response)>,
    ) -> Option<Store> {
        let mut state = state.clone();
        let response = state.apply(request).ok()?;
        match result {
            Some((revision, seen)) => (state.revision() == *revision
                && is_same(request, &response, seen))
            .then_some(state),
            None => Some(state),
        }
    }
}
