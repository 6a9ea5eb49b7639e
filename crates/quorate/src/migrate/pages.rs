//! All keys of a cluster at one revision, in key order, page by page.

use std::collections::VecDeque;

use client::Client;
use client::etcd::proto::etcdserverpb::RangeRequest;
use client::etcd::proto::mvccpb::KeyValue;

use super::limits::Limits;

/// The smallest page, and the first.
const FIRST_PAGE: i64 = 100;

/// Where reading stands.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    client: &'a Client,
    limits: Limits,
    revision: i64,
    next: Vec<u8>,
    page: i64,
    read: VecDeque<KeyValue>,
    is_at_end: bool,
}

impl<'a> Pages<'a> {
    /// From the first key on, at a revision that exists.
    pub(super) fn new(client: &'a Client, revision: i64, limits: Limits) -> Pages<'a> {
        Pages {
            client,
            limits,
            revision,
            next: vec![0],
            page: FIRST_PAGE,
            read: VecDeque::new(),
            is_at_end: false,
        }
    }

    /// The next pair; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<KeyValue>, client::Error> {
        if self.read.is_empty() && !self.is_at_end {
            self.turn().await?;
        }
        Ok(self.read.pop_front())
    }

    async fn turn(&mut self) -> Result<(), client::Error> {
        let request = RangeRequest {
            key: self.next.clone().into(),
            range_end: vec![0].into(),
            limit: self.page,
            revision: self.revision,
            ..RangeRequest::default()
        };
        let answer = self.client.range(request).await?;
        self.is_at_end = !answer.more;
        let pairs = answer.kvs.iter();
        let bytes: usize = pairs.map(|pair| pair.key.len() + pair.value.len()).sum();
        if bytes > self.limits.page_bytes {
            self.page = (self.page / 2).max(1);
        } else if bytes < self.limits.page_bytes / 4 {
            self.page = (self.page * 2).min(self.limits.page_keys);
        }
        if let Some(last) = answer.kvs.last() {
            self.next = last.key.to_vec();
            self.next.push(0);
        }
        self.read = answer.kvs.into();
        Ok(())
    }
}

/// The revision of a cluster, as its leader sees it.
pub(super) async fn revision(client: &Client) -> Result<i64, client::Error> {
    let (revision, _) = revision_and_count(client).await?;
    Ok(revision)
}

/// The same, with the number of keys.
pub(super) async fn revision_and_count(client: &Client) -> Result<(i64, i64), client::Error> {
    let request = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        count_only: true,
        ..RangeRequest::default()
    };
    let answer = client.range(request).await?;
    let header = answer.header.unwrap_or_default();
    Ok((header.revision, answer.count))
}
