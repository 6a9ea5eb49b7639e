//! What a client may ask while all nodes are up.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse,
};
use tonic::Code;

use crate::{Cluster, Outcome};

/// The keys of a range, in the order in which they came.
fn keys(answer: &etcd_client::GetResponse) -> Vec<&str> {
    answer
        .kvs()
        .iter()
        .map(|pair| pair.key_str().expect("the key is text"))
        .collect()
}

/// The code and the text that a call was refused with.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (Code, String) {
    match result {
        Err(Error::GRpcStatus(status)) => (status.code(), status.message().to_owned()),
        other => panic!("expected a gRPC status, got {other:?}"),
    }
}

pub async fn put_get_and_delete(cluster: Cluster) -> Outcome {
    let mut first = cluster.client(Some(0)).await?;
    let mut second = cluster.client(Some(1)).await?;
    let put = first.put("rust/greeting", "hello", None).await?;
    let revision = put.header().expect("a header").revision();
    let got = second.get("rust/greeting", None).await?;
    let pair = &got.kvs()[0];
    assert_eq!((pair.value_str()?, pair.version()), ("hello", 1));
    assert_eq!(
        (pair.create_revision(), pair.mod_revision()),
        (revision, revision)
    );
    let options = PutOptions::new().with_prev_key();
    let mut put = second.put("rust/greeting", "again", Some(options)).await?;
    assert_eq!(
        put.take_prev_key()
            .expect("the previous pair")
            .value_str()?,
        "hello"
    );
    let options = DeleteOptions::new().with_prev_key();
    let deleted = first.delete("rust/greeting", Some(options)).await?;
    assert_eq!(
        (deleted.deleted(), deleted.prev_kvs()[0].value_str()?),
        (1, "again")
    );
    assert_eq!(second.delete("rust/greeting", None).await?.deleted(), 0);
    assert!(second.get("rust/greeting", None).await?.kvs().is_empty());
    Ok(())
}

pub async fn options_of_a_range(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(None).await?;
    for (key, value) in [("range/a", "2"), ("range/b", "3"), ("range/c", "1")] {
        client.put(key, value, None).await?;
    }
    let prefix = || GetOptions::new().with_prefix();
    let limited = client.get("range/", Some(prefix().with_limit(2))).await?;
    assert_eq!(keys(&limited), ["range/a", "range/b"]);
    assert_eq!((limited.count(), limited.more()), (3, true));
    let sorted = prefix().with_sort(SortTarget::Value, SortOrder::Descend);
    assert_eq!(
        keys(&client.get("range/", Some(sorted)).await?),
        ["range/b", "range/a", "range/c"]
    );
    let keys_only = client
        .get("range/", Some(prefix().with_keys_only()))
        .await?;
    assert!(keys_only.kvs().iter().all(|pair| pair.value().is_empty()));
    let counted = client
        .get("range/", Some(prefix().with_count_only()))
        .await?;
    assert_eq!((counted.count(), counted.kvs().len()), (3, 0));
    let newest = limited.header().expect("a header").revision();
    let filtered = prefix()
        .with_min_mod_revision(newest)
        .with_max_create_revision(newest);
    assert_eq!(
        keys(&client.get("range/", Some(filtered)).await?),
        ["range/c"]
    );
    let deleted = client
        .delete("range/", Some(DeleteOptions::new().with_prefix()))
        .await?;
    assert_eq!(deleted.deleted(), 3);
    Ok(())
}

pub async fn history_and_compaction(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(None).await?;
    let old = client
        .put("history", "old", None)
        .await?
        .header()
        .expect("a header")
        .revision();
    let new = client
        .put("history", "new", None)
        .await?
        .header()
        .expect("a header")
        .revision();
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    assert_eq!(
        client.get("history", at(old)).await?.kvs()[0].value_str()?,
        "old"
    );
    client.compact(new, None).await?;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    for node in 0..cluster.size() {
        let mut client = cluster.client(Some(node)).await?;
        let (code, text) = refusal(client.get("history", at(old)).await);
        assert_eq!((code, text.as_str()), (Code::OutOfRange, compacted));
    }
    assert_eq!(
        client.get("history", at(new)).await?.kvs()[0].value_str()?,
        "new"
    );
    let (code, text) = refusal(client.compact(new, None).await);
    assert_eq!((code, text.as_str()), (Code::OutOfRange, compacted));
    Ok(())
}

pub async fn transactions(cluster: Cluster) -> Outcome {
    let mut client = cluster.client(None).await?;
    client.put("txn/a", "1", None).await?;
    let nested = Txn::new()
        .when([Compare::version("txn/missing", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("txn/b", "nested", None)]);
    let txn = Txn::new()
        .when([
            Compare::value("txn/a", CompareOp::Equal, "1"),
            Compare::mod_revision("txn/a", CompareOp::Greater, 0),
        ])
        .and_then([
            TxnOp::put("txn/a", "2", None),
            TxnOp::get("txn/a", None),
            TxnOp::txn(nested),
            TxnOp::delete("txn/missing", None),
        ])
        .or_else([TxnOp::put("txn/a", "wrong", None)]);
    let answer = client.txn(txn).await?;
    assert!(answer.succeeded());
    match &answer.op_responses()[..] {
        [
            TxnOpResponse::Put(_),
            TxnOpResponse::Get(got),
            TxnOpResponse::Txn(inner),
            TxnOpResponse::Delete(deleted),
        ] => {
            // A read inside sees what the transaction wrote before it.
            assert_eq!(got.kvs()[0].value_str()?, "2");
            assert!(inner.succeeded());
            assert_eq!(deleted.deleted(), 0);
        }
        other => panic!("unexpected answers {other:?}"),
    }
    let pairs = client
        .get("txn/", Some(GetOptions::new().with_prefix()))
        .await?;
    let revisions: Vec<i64> = pairs.kvs().iter().map(|pair| pair.mod_revision()).collect();
    assert_eq!(
        revisions[0], revisions[1],
        "all writes of a transaction share one revision"
    );
    let failed = Txn::new()
        .when([Compare::value("txn/a", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("txn/a", "wrong", None)])
        .or_else([TxnOp::get("txn/b", None)]);
    let answer = client.txn(failed).await?;
    assert!(!answer.succeeded());
    assert!(
        matches!(&answer.op_responses()[..], [TxnOpResponse::Get(got)]
        if got.kvs()[0].value() == b"nested")
    );
    Ok(())
}

/// Clients match on the code and on the text, so both are part of the protocol.
pub async fn errors_are_typed(cluster: Cluster) -> Outcome {
    async fn check(client: &mut Client) -> Outcome {
        let (code, text) = refusal(client.put("", "value", None).await);
        assert_eq!(
            (code, text.as_str()),
            (Code::InvalidArgument, "etcdserver: key is not provided")
        );

        let leased = PutOptions::new().with_lease(1234);
        let (code, text) = refusal(client.put("leased", "value", Some(leased)).await);
        let not_found = "etcdserver: requested lease not found";
        assert_eq!((code, text.as_str()), (Code::NotFound, not_found));

        let future = GetOptions::new().with_revision(1 << 40);
        let (code, text) = refusal(client.get("key", Some(future)).await);
        let expected = "etcdserver: mvcc: required revision is a future revision";
        assert_eq!((code, text.as_str()), (Code::OutOfRange, expected));

        let twice = [
            TxnOp::put("twice", "1", None),
            TxnOp::put("twice", "2", None),
        ];
        let (code, text) = refusal(client.txn(Txn::new().and_then(twice)).await);
        let duplicate = "etcdserver: duplicate key given in txn request";
        assert_eq!((code, text.as_str()), (Code::InvalidArgument, duplicate));

        let many: Vec<TxnOp> = (0..129)
            .map(|number| TxnOp::put(format!("many/{number}"), "x", None))
            .collect();
        let (code, text) = refusal(client.txn(Txn::new().and_then(many)).await);
        let too_many = "etcdserver: too many operations in txn request";
        assert_eq!((code, text.as_str()), (Code::InvalidArgument, too_many));

        let (code, text) = refusal(client.put("large", vec![0_u8; 1536 * 1024 + 1], None).await);
        let too_large = "etcdserver: request is too large";
        assert_eq!((code, text.as_str()), (Code::InvalidArgument, too_large));

        let missing = PutOptions::new().with_ignore_value();
        let (code, text) = refusal(client.put("missing", "", Some(missing)).await);
        assert_eq!(
            (code, text.as_str()),
            (Code::InvalidArgument, "etcdserver: key not found")
        );
        Ok(())
    }
    // Leader or follower, the answer is the same: an error must survive being forwarded.
    for node in 0..cluster.size() {
        check(&mut cluster.client(Some(node)).await?).await?;
    }
    Ok(())
}

pub async fn status_and_members(cluster: Cluster) -> Outcome {
    let mut leaders = Vec::new();
    let mut members = Vec::new();
    for node in 0..cluster.size() {
        let mut client = cluster.client(Some(node)).await?;
        let status = client.status().await?;
        assert!(!status.version().is_empty() && status.db_size() > 0 && status.raft_term() > 0);
        assert!(status.raft_applied_index() <= status.raft_index());
        assert!(!status.is_learner());
        leaders.push(status.leader());
        members.push(status.header().expect("a header").member_id());
    }
    assert!(
        leaders
            .iter()
            .all(|leader| *leader == leaders[0] && members.contains(leader))
    );
    let listed = cluster.client(None).await?.member_list().await?;
    let mut ids: Vec<u64> = listed.members().iter().map(|member| member.id()).collect();
    ids.sort_unstable();
    members.sort_unstable();
    assert_eq!(ids, members);
    assert!(
        listed
            .members()
            .iter()
            .all(|member| member.client_urls().len() == 1)
    );
    Ok(())
}
