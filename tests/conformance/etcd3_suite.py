"""The Python package etcd3 against a three-node cluster."""

import time

import etcd3
import grpc

import cases
from cases import Book, assert_on_every_node, case

# What etcd3 raises for a call that was not acknowledged: its own types for some codes, gRPC's
# for the rest.
FAILURES = (etcd3.exceptions.Etcd3Exception, grpc.RpcError)


def client(node, timeout_s=10):
    host, port = node.etcd.rsplit(":", 1)
    return etcd3.client(host=host, port=int(port), timeout=timeout_s)


def refusal(call):
    """The gRPC status that a call ends in."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    except etcd3.exceptions.Etcd3Exception as error:
        # etcd3 wraps a few codes and loses the text; the cause still has it.
        return error.__context__.code(), error.__context__.details()
    raise AssertionError("the call was expected to fail")


@case
def put_get_and_delete(cluster):
    first, second, third = [client(node) for node in cluster.nodes]
    first.put("python/greeting", "hello")
    value, metadata = second.get("python/greeting")
    assert value == b"hello"
    assert metadata.key == b"python/greeting"
    assert metadata.version == 1
    answer = third.put("python/greeting", "again", prev_kv=True)
    assert answer.prev_kv.value == b"hello"
    assert first.delete("python/greeting") is True
    assert second.delete("python/greeting") is False
    assert third.get("python/greeting") == (None, None)


@case
def keys_and_values_are_bytes(cluster):
    etcd = client(cluster.nodes[0])
    every_byte = bytes(range(256))
    etcd.put(b"bytes/\x00\xff", every_byte)
    value, metadata = etcd.get(b"bytes/\x00\xff")
    assert value == every_byte
    assert metadata.key == b"bytes/\x00\xff"
    etcd.put("bytes/empty", b"")
    assert etcd.get("bytes/empty")[0] == b""
    etcd.delete_prefix("bytes/")


@case
def ranges_are_sorted(cluster):
    etcd = client(cluster.nodes[1])
    for key, value in [("range/a", "2"), ("range/b", "3"), ("range/c", "1")]:
        etcd.put(key, value)
    values = [value for value, _ in etcd.get_prefix("range/")]
    assert values == [b"2", b"3", b"1"]
    values = [value for value, _ in etcd.get_prefix("range/", sort_order="descend",
                                                     sort_target="value")]
    assert values == [b"3", b"2", b"1"]
    keys = [metadata.key for _, metadata in etcd.get_range("range/b", "range/z")]
    assert keys == [b"range/b", b"range/c"]
    assert etcd.delete_prefix("range/").deleted == 3


@case
def transactions_compare_and_swap(cluster):
    etcd = client(cluster.nodes[2])
    etcd.put("txn/a", "1")
    tests = etcd.transactions
    succeeded, answers = etcd.transaction(
        compare=[tests.value("txn/a") == "1", tests.version("txn/a") > 0,
                 tests.create("txn/missing") == 0, tests.mod("txn/a") != 0],
        success=[tests.put("txn/a", "2"), tests.get("txn/a"), tests.delete("txn/missing")],
        failure=[tests.put("txn/a", "wrong")],
    )
    assert succeeded is True
    # A read inside sees what the transaction wrote before it.
    assert answers[1][0][0] == b"2"
    succeeded, answers = etcd.transaction(
        compare=[tests.value("txn/a") == "1"],
        success=[tests.put("txn/a", "wrong")],
        failure=[tests.get("txn/a")],
    )
    assert succeeded is False
    assert answers[0][0][0] == b"2"
    assert etcd.put_if_not_exists("txn/a", "wrong") is False
    assert etcd.put_if_not_exists("txn/new", "1") is True
    assert etcd.replace("txn/new", "1", "2") is True
    assert etcd.replace("txn/new", "1", "3") is False


@case
def a_nested_transaction(cluster):
    etcd = client(cluster.nodes[0])
    etcd.put("nested/a", "1")
    tests = etcd.transactions
    inner = tests.txn(
        compare=[tests.value("nested/a") == "1"],
        success=[tests.put("nested/b", "inner")],
        failure=[],
    )
    succeeded, _ = etcd.transaction(compare=[], success=[inner], failure=[])
    assert succeeded is True
    assert etcd.get("nested/b")[0] == b"inner"


@case
def compaction_drops_history(cluster):
    etcd = client(cluster.nodes[1])
    etcd.put("history", "old")
    revision = etcd.put("history", "new").header.revision
    etcd.compact(revision)
    code, text = refusal(lambda: etcd.compact(revision))
    assert code == grpc.StatusCode.OUT_OF_RANGE, code
    assert text == "etcdserver: mvcc: required revision has been compacted", text
    code, text = refusal(lambda: etcd.compact(revision + 1000))
    assert code == grpc.StatusCode.OUT_OF_RANGE, code
    assert text == "etcdserver: mvcc: required revision is a future revision", text
    assert etcd.get("history")[0] == b"new"


@case
def errors_have_etcds_codes_and_texts(cluster):
    etcd = client(cluster.nodes[0])
    code, text = refusal(lambda: etcd.put("", "value"))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT,
                            "etcdserver: key is not provided"), (code, text)
    tests = etcd.transactions
    twice = [tests.put("twice", "1"), tests.put("twice", "2")]
    code, text = refusal(lambda: etcd.transaction(compare=[], success=twice, failure=[]))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT,
                            "etcdserver: duplicate key given in txn request"), (code, text)
    many = [tests.put(f"many/{number}", "x") for number in range(129)]
    code, text = refusal(lambda: etcd.transaction(compare=[], success=many, failure=[]))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT,
                            "etcdserver: too many operations in txn request"), (code, text)
    code, text = refusal(lambda: etcd.put("leased", "value", lease=1234))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND,
                            "etcdserver: requested lease not found"), (code, text)


@case
def status_names_the_leader(cluster):
    leader = cluster.leader()
    for node in cluster.nodes:
        status = client(node).status()
        assert status.leader.name == leader.name
        assert status.db_size > 0
        assert status.raft_term > 0
        assert status.raft_index > 0
        assert status.version


@case
def members_are_listed(cluster):
    members = list(client(cluster.nodes[0]).members)
    assert sorted(member.name for member in members) == ["n1", "n2", "n3"]
    for member in members:
        node = next(node for node in cluster.nodes if node.name == member.name)
        assert list(member.client_urls) == [f"http://{node.etcd}"]
        assert list(member.peer_urls) == [f"http://{node.peer}"]


def read_all(node):
    """All keys on one node, without asking the others; None while it gives no answer."""
    try:
        pairs = client(node, timeout_s=2).get_range("\0", "\0", serializable=True)
        return {metadata.key.decode(errors="replace"): value for value, metadata in pairs}
    except FAILURES:
        return None


def assert_nothing_lost(cluster, book):
    """All acknowledged writes are on every node, those included that were dead meanwhile."""
    # The marker of this book is bytes here: etcd3 returns values as they are.
    book.marker = book.marker.encode()
    assert_on_every_node(
        cluster, book,
        write=lambda key, value: client(cluster.nodes[0]).put(key, value),
        read_all=read_all,
    )


@case
def no_acknowledged_write_is_lost_with_the_leader(cluster):
    book = Book()
    killed = None
    for number in range(3000):
        if number == 1000:
            killed = cluster.kill_leader()
            clients = []
        if number % 1000 == 0:
            clients = [client(node, timeout_s=5) for node in cluster.nodes if node.alive]
        key, value = f"failover/{number:05}", f"value {number}".encode()
        book.attempt(key, value)
        try:
            clients[number % len(clients)].put(key, value)
        except FAILURES:
            continue  # not acknowledged: may be there or not
        book.acknowledge(key, value)
    assert len(book.acknowledged) > 2500, f"{len(book.acknowledged)} of 3000 acknowledged"
    cluster.restart(killed)
    assert_nothing_lost(cluster, book)


@case
def increments_happen_at_most_once(cluster):
    """A counter raised by compare-and-swap while the leader dies. An increment that was
    acknowledged counts once; one that ended in an error counts once or not at all."""
    client(cluster.nodes[0]).put("counter", "0")
    acknowledged = uncertain = 0
    killed = None
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        if killed is None and acknowledged >= 100:
            killed = cluster.kill_leader()
        alive = [node for node in cluster.nodes if node.alive]
        etcd = client(alive[acknowledged % len(alive)], timeout_s=3)
        try:
            value, metadata = etcd.get("counter")
        except FAILURES:
            continue
        tests = etcd.transactions
        try:
            succeeded, _ = etcd.transaction(
                compare=[tests.mod("counter") == metadata.mod_revision],
                success=[tests.put("counter", str(int(value) + 1))],
                failure=[],
            )
        except FAILURES:
            uncertain += 1
            continue
        acknowledged += succeeded
    assert killed is not None, f"only {acknowledged} increments in the time given"
    cluster.restart(killed)
    final = int(client(cluster.nodes[0]).get("counter")[0])
    assert acknowledged <= final <= acknowledged + uncertain, (acknowledged, final, uncertain)


if __name__ == "__main__":
    cases.run("python etcd3")
