"""The Python package etcd3 against a three-node cluster."""

import threading
import time

import etcd3
import grpc

import cases
import etcd3_leases  # noqa: F401  (its cases come first)
import etcd3_users  # noqa: F401
from cases import Book, assert_on_every_node, case
from cluster import wait_until

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


class Told:
    """What a watch with a callback was told."""

    def __init__(self):
        self.events = []
        self.responses = []
        self.errors = []

    def __call__(self, response):
        if isinstance(response, Exception):
            self.errors.append(response)
        else:
            self.responses.append(response)
            self.events.extend(response.events)


@case
def watch_callbacks_hear_of_their_keys(cluster):
    etcd = client(cluster.nodes[0])
    one, prefix, from_start = Told(), Told(), Told()
    start = etcd.put("callback/a", "0").header.revision
    etcd.add_watch_callback("callback/a", one)
    etcd.add_watch_prefix_callback("callback/", prefix, prev_kv=True)
    cancelled = Told()
    watch_id = etcd.add_watch_callback("callback/b", cancelled)
    etcd.add_watch_callback("callback/a", from_start, start_revision=start)
    etcd.cancel_watch(watch_id)
    other = client(cluster.nodes[1])
    other.put("callback/a", "1")
    other.put("callback/b", "2")
    other.delete("callback/a")
    wait_until("the last event", lambda: len(prefix.events) == 3)
    values = [(type(event).__name__, event.key, event.value) for event in prefix.events]
    assert values == [
        ("PutEvent", b"callback/a", b"1"),
        ("PutEvent", b"callback/b", b"2"),
        ("DeleteEvent", b"callback/a", b""),
    ], values
    assert [event.prev_value for event in prefix.events] == [b"0", b"", b"1"]
    wait_until("the key's events", lambda: len(one.events) == 2 and len(from_start.events) == 3)
    assert [event.value for event in from_start.events] == [b"0", b"1", b""]
    assert not cancelled.events
    assert not one.errors + prefix.errors + from_start.errors


@case
def a_watch_below_the_floor_is_refused(cluster):
    etcd = client(cluster.nodes[0])
    old = etcd.put("refused", "old").header.revision
    etcd.compact(etcd.put("refused", "new").header.revision)
    told = Told()
    try:
        etcd.add_watch_callback("refused", told, start_revision=old)
    except etcd3.exceptions.RevisionCompactedError as error:
        told.errors.append(error)
    wait_until("the refusal", lambda: told.errors)
    assert isinstance(told.errors[0], etcd3.exceptions.RevisionCompactedError)
    assert told.errors[0].compacted_revision == old + 1


@case
def a_watch_that_resumes_misses_nothing_and_hears_nothing_twice(cluster):
    """The package does not resume by itself: when a watch fails, go on elsewhere behind the last
    revision heard of, as its users do."""
    first = client(cluster.nodes[0]).put("resumed/begin", "x").header.revision
    heard, done = [], threading.Event()

    def follow():
        turn = 0
        while not done.is_set():
            turn += 1
            node = cluster.nodes[turn % 3]
            start = heard[-1].mod_revision + 1 if heard else first
            told = Told()
            try:
                etcd = client(node, timeout_s=5)
                etcd.add_watch_prefix_callback("resumed/", told, start_revision=start)
            except FAILURES:
                time.sleep(0.1)
                continue
            # Now and then it changes the node without need.
            until = time.monotonic() + 1.5
            while not told.errors and not done.is_set() and time.monotonic() < until:
                time.sleep(0.02)
            # Whole responses only: a revision is never split.
            responses = list(told.responses)
            heard.extend(event for response in responses for event in response.events)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    acknowledged, killed = [], None
    for number in range(600):
        if number == 200:
            killed = cluster.kill_leader()
        alive = [node for node in cluster.nodes if node.alive]
        if number % 100 == 0 or number == 200:
            clients = [client(node, timeout_s=5) for node in alive]
        try:
            clients[number % len(clients)].put(f"resumed/{number:04}", "x")
        except FAILURES:
            continue
        acknowledged.append(f"resumed/{number:04}".encode())
        time.sleep(0.01)
    cluster.restart(killed)

    def ends():
        try:
            return client(cluster.nodes[0]).put("resumed/~", "end")
        except FAILURES:
            return None  # gRPC may still wait before it connects again to a node that was dead

    wait_until("the end to be written", ends)
    wait_until("the last event", lambda: any(event.key == b"resumed/~" for event in list(heard)))
    done.set()
    follower.join()
    keys = [event.key for event in heard]
    told = [(event.key, event.mod_revision) for event in heard]
    assert len(told) == len(set(told)), "an event was told twice"
    assert [event.mod_revision for event in heard] == sorted(event.mod_revision for event in heard)
    missing = set(acknowledged) - set(keys)
    assert not missing, f"{len(missing)} events were lost, e.g. {sorted(missing)[:3]}"


if __name__ == "__main__":
    cases.run("python etcd3")
