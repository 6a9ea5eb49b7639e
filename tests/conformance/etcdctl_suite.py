"""etcdctl, as Debian packages it, against a three-node cluster."""

import base64
import time

import cases
import etcdctl_leases  # noqa: F401  (its cases come first)
import etcdctl_locks  # noqa: F401
import etcdctl_users  # noqa: F401
from cases import Book, assert_on_every_node, case
from cluster import wait_until
from etcdctl import Refused, Watching, etcdctl, etcdctl_json, put, read_all


def keys(answer):
    return [base64.b64decode(pair["key"]).decode() for pair in answer.get("kvs", [])]


def assert_refused(text, cluster, *arguments, **options):
    try:
        printed = etcdctl(cluster, *arguments, **options)
    except Refused as refused:
        assert text in str(refused), f"expected {text!r} in {refused}"
        return
    raise AssertionError(f"expected {text!r}, got {printed!r}")


@case
def put_is_seen_through_every_node(cluster):
    put(cluster, "greeting", "hello", endpoints=[cluster.nodes[0].etcd])
    for node in cluster.nodes:
        assert etcdctl(cluster, "get", "greeting", endpoints=[node.etcd]) == "greeting\nhello\n"
        assert etcdctl(cluster, "get", "no such key", endpoints=[node.etcd]) == ""


@case
def each_put_is_one_revision(cluster):
    before = etcdctl_json(cluster, "put", "counted", "1")["header"]
    after = etcdctl_json(cluster, "put", "counted", "2")["header"]
    assert after["revision"] == before["revision"] + 1
    assert after["cluster_id"] == before["cluster_id"] != 0
    pair = etcdctl_json(cluster, "get", "counted")["kvs"][0]
    assert pair["version"] == 2
    assert pair["mod_revision"] == after["revision"]
    assert pair["create_revision"] == before["revision"]


@case
def put_can_return_the_previous_value(cluster):
    put(cluster, "previous", "first")
    assert etcdctl(cluster, "put", "previous", "second", "--prev-kv") == "OK\nprevious\nfirst\n"
    put(cluster, "previous", "third")
    etcdctl(cluster, "put", "previous", "--ignore-value")
    assert etcdctl(cluster, "get", "previous", "--print-value-only") == "third\n"
    assert_refused("etcdserver: key not found", cluster, "put", "missing", "--ignore-value")


@case
def get_by_prefix_range_and_from_key(cluster):
    for name in ["a", "b", "c"]:
        put(cluster, f"dir/{name}", name)
    put(cluster, "dis", "outside")
    names = ["dir/a", "dir/b", "dir/c"]
    assert keys(etcdctl_json(cluster, "get", "dir/", "--prefix")) == names
    assert keys(etcdctl_json(cluster, "get", "dir/a", "dir/c")) == names[:2]
    assert keys(etcdctl_json(cluster, "get", "dir/c", "--from-key"))[:2] == ["dir/c", "dis"]
    printed = etcdctl(cluster, "get", "dir/", "--prefix", "--keys-only")
    assert printed.split() == names


@case
def get_sorts_and_limits(cluster):
    for name, value in [("x", "3"), ("y", "1"), ("z", "2")]:
        put(cluster, f"sort/{name}", value)
    prefix = ["get", "sort/", "--prefix"]
    descending = etcdctl_json(cluster, *prefix, "--sort-by", "VALUE", "--order", "DESCEND")
    assert keys(descending) == ["sort/x", "sort/z", "sort/y"]
    newest = etcdctl_json(cluster, *prefix, "--sort-by", "MODIFY", "--order", "DESCEND",
                          "--limit", "1")
    assert keys(newest) == ["sort/z"]
    assert newest["more"] is True
    assert newest["count"] == 3


@case
def get_at_an_older_revision(cluster):
    old = etcdctl_json(cluster, "put", "history", "old")["header"]["revision"]
    put(cluster, "history", "new")
    assert etcdctl(cluster, "get", "history", "--rev", str(old)) == "history\nold\n"
    assert etcdctl(cluster, "get", "history") == "history\nnew\n"
    assert_refused("required revision is a future revision",
                   cluster, "get", "history", "--rev", str(old + 1000))


@case
def transactions_take_one_branch(cluster):
    put(cluster, "account", "100")
    program = 'value("account") = "100"\n\nput account 90\nget account\n\nput account wrong\n\n'
    printed = etcdctl(cluster, "txn", stdin=program)
    assert printed == "SUCCESS\n\nOK\n\naccount\n90\n", printed
    program = 'mod("account") = "1"\n\nput account wrong\n\nget account\n\n'
    printed = etcdctl(cluster, "txn", stdin=program)
    assert printed == "FAILURE\n\naccount\n90\n", printed


@case
def a_transaction_is_one_revision(cluster):
    before = etcdctl_json(cluster, "get", "account")["header"]["revision"]
    etcdctl(cluster, "txn", stdin="\nput pair/1 x\nput pair/2 x\n\n\n")
    pairs = etcdctl_json(cluster, "get", "pair/", "--prefix")["kvs"]
    assert [pair["mod_revision"] for pair in pairs] == [before + 1, before + 1]
    assert_refused("duplicate key given in txn request",
                   cluster, "txn", stdin="\nput twice 1\nput twice 2\n\n\n")


@case
def deletes_one_key_or_a_prefix(cluster):
    for name in ["1", "2", "3"]:
        put(cluster, f"del/{name}", name)
    assert etcdctl(cluster, "del", "del/1") == "1\n"
    assert etcdctl(cluster, "del", "del/1") == "0\n"
    printed = etcdctl(cluster, "del", "del/", "--prefix", "--prev-kv")
    assert printed == "2\ndel/2\n2\ndel/3\n3\n", printed
    assert etcdctl(cluster, "get", "del/", "--prefix") == ""


@case
def compaction_drops_history(cluster):
    old = etcdctl_json(cluster, "put", "compacted", "old")["header"]["revision"]
    new = etcdctl_json(cluster, "put", "compacted", "new")["header"]["revision"]
    assert etcdctl(cluster, "compaction", str(new)) == f"compacted revision {new}\n"
    compacted = "required revision has been compacted"
    for node in cluster.nodes:
        assert_refused(compacted, cluster, "get", "compacted", "--rev", str(old),
                       endpoints=[node.etcd])
    assert etcdctl(cluster, "get", "compacted", "--rev", str(new)) == "compacted\nnew\n"
    assert_refused(compacted, cluster, "compaction", str(new))
    assert_refused("required revision is a future revision",
                   cluster, "compaction", str(new + 1000))


@case
def errors_have_the_texts_that_clients_match(cluster):
    assert_refused("etcdserver: key is not provided", cluster, "put", "", "value")
    assert_refused("etcdserver: requested lease not found",
                   cluster, "put", "leased", "value", "--lease", "1234")
    branches = "".join(f"put many/{number} x\n" for number in range(129))
    assert_refused("etcdserver: too many operations in txn request",
                   cluster, "txn", stdin=f"\n{branches}\n\n")
    # 1.5 MiB is the most that a request may hold. The text goes through standard input: the
    # command line of a process is bounded as well.
    assert_refused("etcdserver: request is too large",
                   cluster, "put", "large", stdin="x" * (1536 * 1024 + 1))


@case
def values_are_bytes(cluster):
    value = "line one\nline two\ttab \u00e9\u4e16 \"quoted\""
    put(cluster, "bytes", value)
    answer = etcdctl_json(cluster, "get", "bytes")
    assert base64.b64decode(answer["kvs"][0]["value"]).decode() == value
    large = "0123456789abcdef" * 64 * 1024
    assert etcdctl(cluster, "put", "large", stdin=large) == "OK\n"
    assert etcdctl(cluster, "get", "large", "--print-value-only") == large + "\n"
    etcdctl(cluster, "del", "large")


@case
def endpoint_status_names_one_leader(cluster):
    answers = etcdctl_json(cluster, "endpoint", "status")
    assert [answer["Endpoint"] for answer in answers] == cluster.endpoints
    statuses = [answer["Status"] for answer in answers]
    members = {status["header"]["member_id"] for status in statuses}
    assert len(members) == 3
    leaders = {status["leader"] for status in statuses}
    assert len(leaders) == 1 and leaders <= members
    leader = cluster.leader()
    for answer in answers:
        leads = answer["Status"]["leader"] == answer["Status"]["header"]["member_id"]
        assert leads == (answer["Endpoint"] == leader.etcd)
        assert answer["Status"]["version"].count(".") >= 2
        assert answer["Status"]["dbSize"] > 0
        assert answer["Status"]["raftTerm"] > 0
        assert answer["Status"]["raftIndex"] > 0
    assert len({status["header"]["cluster_id"] for status in statuses}) == 1


@case
def endpoint_health_is_good(cluster):
    answers = etcdctl_json(cluster, "endpoint", "health")
    assert sorted(answer["endpoint"] for answer in answers) == sorted(cluster.endpoints)
    assert all(answer["health"] for answer in answers), answers


@case
def member_list_names_all(cluster):
    members = etcdctl_json(cluster, "member", "list")["members"]
    assert sorted(member["name"] for member in members) == ["n1", "n2", "n3"]
    for member in members:
        node = next(node for node in cluster.nodes if node.name == member["name"])
        assert member["clientURLs"] == [f"http://{node.etcd}"]
        assert member["peerURLs"] == [f"http://{node.peer}"]
        assert member["ID"] != 0
    assert etcdctl(cluster, "member", "list").count("started") == 3


def write_while_the_leader_dies(cluster, book, round, writes, kill_at):
    """Numbered puts through all nodes in turn; before write `kill_at` the leader is killed."""
    killed = None
    for number in range(writes):
        if number == kill_at:
            killed = cluster.kill_leader()
        key, value = f"failover/{round}/{number:04}", f"value {number}"
        book.attempt(key, value)
        alive = [node.etcd for node in cluster.nodes if node.alive]
        try:
            put(cluster, key, value, endpoints=[alive[number % len(alive)]], timeout_s=10)
        except Refused:
            continue  # not acknowledged: may be there or not
        book.acknowledge(key, value)
    return killed


@case
def no_acknowledged_write_is_lost_with_the_leader(cluster):
    for round in range(2):
        book = Book()
        killed = write_while_the_leader_dies(cluster, book, round, writes=60, kill_at=20)
        # The two that are left must go on; a handful of writes may fall into the gap.
        assert len(book.acknowledged) > 40, f"only {len(book.acknowledged)} of 60 acknowledged"
        cluster.restart(killed)
        assert_on_every_node(
            cluster, book,
            write=lambda key, value: put(cluster, key, value),
            read_all=lambda node: read_all(cluster, node),
        )


@case
def requests_sent_into_the_gap_are_answered(cluster):
    """A put sent right after the kill is answered, by success or by error, before it times out."""
    killed = cluster.kill_leader()
    alive = [node.etcd for node in cluster.nodes if node.alive]
    started = time.monotonic()
    try:
        put(cluster, "gap", "value", endpoints=[alive[0]], timeout_s=20)
    except Refused:
        pass
    assert time.monotonic() - started < 20
    put(cluster, "gap", "after", endpoints=alive)
    cluster.restart(killed)


@case
def two_dead_nodes_stop_writes_but_not_stale_reads(cluster):
    put(cluster, "quorum", "before")
    survivor, *others = cluster.nodes
    # The survivor must have it before the others go.
    wait_until("the write to spread",
                     lambda: (read_all(cluster, survivor) or {}).get("quorum") == "before")
    for node in others:
        cluster.kill(node)
    try:
        put(cluster, "quorum", "after", endpoints=[survivor.etcd], timeout_s=3)
        raise AssertionError("a write was acknowledged without a quorum")
    except Refused:
        pass
    assert read_all(cluster, survivor)["quorum"] == "before"
    cluster.restart(*others)
    put(cluster, "quorum", "again")
    assert etcdctl(cluster, "get", "quorum") == "quorum\nagain\n"


@case
def watch_tells_a_prefix_from_a_revision_with_previous_values(cluster):
    first = etcdctl_json(cluster, "put", "watch/a", "1")["header"]["revision"]
    put(cluster, "watch/a", "2")
    put(cluster, "watchful", "outside")
    # Every node serves watches from its own replica.
    watching = [
        Watching(cluster, "--prefix", "watch/", "--rev", str(first), "--prev-kv",
                 endpoints=[node.etcd])
        for node in cluster.nodes
    ]
    for each in watching:
        wait_until("the past to be told", lambda each=each: len(each.events()) == 2)
    put(cluster, "watch/b", "3")
    etcdctl(cluster, "del", "watch/a")
    expected = [
        ("PUT", "watch/a", "1", first, ""),
        ("PUT", "watch/a", "2", first + 1, "1"),
        ("PUT", "watch/b", "3", first + 3, ""),
        ("DELETE", "watch/a", "", first + 4, "2"),
    ]
    for each in watching:
        wait_until("the present to be told", lambda each=each: len(each.events()) >= 4)
        assert each.events() == expected, each.events()
        each.end()


@case
def a_transaction_is_told_as_one(cluster):
    watching = Watching(cluster, "--prefix", "whole/")
    # "From now on" begins once the watch is there, which etcdctl does not say.
    def awake():
        put(cluster, "whole/awake", "")
        return watching.events()
    wait_until("the watch to begin", awake)
    before = len(watching.responses)
    operations = "".join(f"put whole/{number} x\n" for number in range(50))
    etcdctl(cluster, "txn", stdin=f"\n{operations}\n\n")
    last = etcdctl_json(cluster, "get", "whole/49")["kvs"][0]["mod_revision"]
    wait_until("the transaction", lambda: any(event[3] == last for event in watching.events()))
    told = [response for response in watching.responses[before:]
            if any(event["kv"]["mod_revision"] == last for event in response["Events"])]
    assert len(told) == 1, "a revision is never split"
    assert sum(event[3] == last for event in watching.events()) == 50
    watching.end()


@case
def watch_below_the_floor_is_refused(cluster):
    old = etcdctl_json(cluster, "put", "floor", "old")["header"]["revision"]
    new = etcdctl_json(cluster, "put", "floor", "new")["header"]["revision"]
    etcdctl(cluster, "compaction", str(new))
    for node in cluster.nodes:
        wait_until("the compaction to spread",
                   lambda node=node: compacted(cluster, node, old))
        watching = Watching(cluster, "floor", "--rev", str(old), endpoints=[node.etcd])
        wait_until("the refusal", lambda: any(
            "required revision has been compacted" in line for line in watching.other_lines))
        assert not watching.events()
        # The revision at the floor itself can still be told.
        at_floor = Watching(cluster, "floor", "--rev", str(new), endpoints=[node.etcd])
        wait_until("the event at the floor", at_floor.events)
        assert at_floor.events() == [("PUT", "floor", "new", new, "")]
        watching.end()
        at_floor.end()


def compacted(cluster, node, revision):
    try:
        etcdctl(cluster, "get", "floor", "--rev", str(revision), "--consistency", "s",
                endpoints=[node.etcd])
    except Refused:
        return True
    return False


@case
def progress_is_told_on_request(cluster):
    watching = Watching(cluster, "-i")
    watching.say("watch --prefix progress/")
    revision = etcdctl_json(cluster, "put", "elsewhere", "x")["header"]["revision"]

    def told():
        watching.say("progress")
        return any(f"progress notify: {revision}" in line for line in watching.other_lines) or any(
            not response.get("Events") and response["Header"]["revision"] >= revision
            for response in watching.responses)

    wait_until("progress", told)
    watching.end()


@case
def no_event_is_lost_or_repeated_with_the_leader(cluster):
    for round in range(2):
        prefix = f"watched/{round}/"
        start = etcdctl_json(cluster, "get", "watched/")["header"]["revision"] + 1
        watching = Watching(cluster, "--prefix", prefix, "--rev", str(start))
        killed, acknowledged = None, []
        for number in range(60):
            if number == 20:
                killed = cluster.kill_leader()
            alive = [node.etcd for node in cluster.nodes if node.alive]
            try:
                put(cluster, f"{prefix}{number}", "x", endpoints=[alive[number % len(alive)]],
                    timeout_s=10)
            except Refused:
                continue
            acknowledged.append(f"{prefix}{number}")
        cluster.restart(killed)
        put(cluster, f"{prefix}end", "x")
        # What a watch of every node tells afterwards is what there was to be told.
        for node in cluster.nodes:
            again = Watching(cluster, "--prefix", prefix, "--rev", str(start),
                             endpoints=[node.etcd])
            for each in (again, watching):
                wait_until("the last event", lambda each=each: any(
                    event[1] == f"{prefix}end" for event in each.events()))
            assert watching.events() == again.events(), "nothing lost, repeated or out of order"
            again.end()
        told = [event[1] for event in watching.events()]
        assert set(acknowledged) <= set(told)
        assert len(told) == len(set(told))
        watching.end()


if __name__ == "__main__":
    cases.run("etcdctl")
