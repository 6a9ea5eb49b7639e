"""etcdctl's member, endpoint, alarm, snapshot, move-leader, defrag and compaction commands, also
while a node is lost, and members that come and go under load."""

import os
import subprocess
import threading
import time

import cases
from cases import Book, assert_on_every_node, case
from cluster import wait_until
from etcdctl import Refused, etcdctl, etcdctl_json, put, read_all

# etcd believes that a member is well after 5 s of being connected.
SETTLED_S = 6


def assert_refused(text, cluster, *arguments, **options):
    try:
        printed = etcdctl(cluster, *arguments, **options)
    except Refused as refused:
        assert text in str(refused), f"expected {text!r} in {refused}"
        return
    raise AssertionError(f"expected {text!r}, got {printed!r}")


def members(cluster, **options):
    return etcdctl_json(cluster, "member", "list", **options)["members"]


def statuses(cluster, nodes):
    endpoints = [node.etcd for node in nodes]
    return [each["Status"] for each in etcdctl_json(cluster, "endpoint", "status",
                                                    endpoints=endpoints)]


def hashes(cluster, nodes, *arguments):
    endpoints = [node.etcd for node in nodes]
    answers = etcdctl_json(cluster, "endpoint", "hashkv", *arguments, endpoints=endpoints)
    return {each["HashKV"]["hash"] for each in answers}


def alive(cluster):
    return [node for node in cluster.nodes if node.alive]


@case
def every_endpoint_tells_its_status(cluster):
    put(cluster, "a", "1")
    found = statuses(cluster, cluster.nodes)
    assert len({status["header"]["member_id"] for status in found}) == 3
    assert len({status["leader"] for status in found}) == 1
    for status in found:
        assert status["version"].startswith("3.")
        assert 0 < status["dbSizeInUse"] <= status["dbSize"]
        assert status["raftIndex"] >= status["raftAppliedIndex"] > 0
        assert status.get("isLearner", False) is False
    etcdctl(cluster, "endpoint", "health")


@case
def members_have_one_hash(cluster):
    for number in range(20):
        put(cluster, f"hashed/{number % 5}", str(number))
    revision = etcdctl_json(cluster, "put", "hashed/end", "x")["header"]["revision"]

    def same():
        try:
            found = hashes(cluster, cluster.nodes, "--rev", str(revision))
        except Refused:
            return None  # a follower is not there yet
        return found
    found = wait_until("all members at the revision", same)
    assert len(found) == 1
    put(cluster, "hashed/end", "y")
    assert hashes(cluster, cluster.nodes[:1], "--rev", str(revision)) == found
    etcdctl(cluster, "compaction", str(revision))
    assert_refused("required revision has been compacted", cluster, "compaction", str(revision))
    time.sleep(1)
    assert len(hashes(cluster, cluster.nodes)) == 1
    assert_refused("required revision has been compacted", cluster,
                   "endpoint", "hashkv", "--rev", str(revision - 2))
    assert_refused("required revision is a future revision", cluster,
                   "endpoint", "hashkv", "--rev", str(revision + 1000))


@case
def there_is_nothing_to_defragment_and_no_alarm(cluster):
    assert etcdctl(cluster, "defrag").count("Finished defragmenting") == 3
    assert etcdctl(cluster, "alarm", "list") == ""
    assert etcdctl(cluster, "alarm", "disarm") == ""


@case
def a_snapshot_is_saved(cluster):
    for number in range(50):
        put(cluster, f"saved/{number}", "x" * 1000)
    path = cluster.folder / "saved.snapshot"
    etcdctl(cluster, "snapshot", "save", str(path), endpoints=[cluster.nodes[1].etcd])
    assert path.stat().st_size % 512 == 32
    binary = getattr(cluster.server, "binary")
    if os.path.basename(binary) == "quorate":
        done = subprocess.run([binary, "snapshot", "status", str(path)],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "every checksum" in done.stdout


@case
def leadership_moves_where_it_is_told(cluster):
    leader = cluster.leader()
    ids = {member["name"]: f"{member['ID']:x}" for member in members(cluster)}
    target = next(node for node in cluster.nodes if node is not leader)
    assert_refused("bad leader transferee", cluster, "move-leader", "77")
    printed = etcdctl(cluster, "move-leader", ids[target.name])
    assert "transferred" in printed, printed
    wait_until("the new leader", lambda: cluster.leader() is target)


@case
def what_speaks_against_a_change_is_said_as_etcd_does(cluster):
    time.sleep(SETTLED_S)
    first = members(cluster)[0]
    assert_refused("member not found", cluster, "member", "remove", "77")
    assert_refused("member not found", cluster, "member", "update", "77",
                   "--peer-urls", "http://127.0.0.1:1")
    assert_refused("Peer URLs already exists", cluster, "member", "add", "new",
                   "--peer-urls", first["peerURLs"][0])
    assert_refused("can only promote a learner member", cluster,
                   "member", "promote", f"{first['ID']:x}")


@case
def a_learner_is_added_started_and_promoted(cluster):
    time.sleep(SETTLED_S)
    new = cluster.new_node(joins=True)
    answer = etcdctl_json(cluster, "member", "add", new.name, "--learner",
                          "--peer-urls", f"http://{new.peer}")
    assert answer["member"]["isLearner"] is True
    assert_refused("can only promote a learner member which is in sync", cluster,
                   "member", "promote", f"{answer['member']['ID']:x}")
    assert_refused("too many learner members", cluster, "member", "add", "other", "--learner",
                   "--peer-urls", "http://127.0.0.1:1")
    cluster.nodes.append(new)
    cluster.start(new)
    found = wait_until("it has started", lambda: next(
        (member for member in members(cluster, endpoints=[cluster.nodes[0].etcd])
         if member.get("name") == new.name), None))
    assert found["isLearner"] is True

    def promoted():
        try:
            etcdctl(cluster, "member", "promote", f"{found['ID']:x}",
                    endpoints=[cluster.nodes[1].etcd])
        except Refused as refused:
            assert "in sync" in str(refused), refused
            return False
        return True
    wait_until("it is in sync", promoted)
    assert not any(member.get("isLearner") for member in members(cluster))
    wait_until("it serves", lambda: cluster.serves(new))
    put(cluster, "by the new one", "x", endpoints=[new.etcd])
    # And goes again.
    etcdctl(cluster, "member", "remove", f"{found['ID']:x}",
            endpoints=[cluster.nodes[0].etcd])
    cluster.nodes.remove(new)
    wait_until("it ends", lambda: not new.alive)


class Load:
    """Clients that put on and on through all nodes, and what they were told."""

    def __init__(self, cluster, book):
        self.cluster, self.book = cluster, book
        self.refused, self.done = [], 0
        self.ends = threading.Event()
        self.threads = [threading.Thread(target=self._put, args=(number,)) for number in range(2)]
        for thread in self.threads:
            thread.start()

    def _put(self, number):
        count = 0
        while not self.ends.is_set():
            count += 1
            key, value = f"load/{number}/{count % 20}", str(count)
            self.book.attempt(key, value)
            try:
                put(self.cluster, key, value)
            except Refused as refused:
                self.refused.append(str(refused))
                continue
            self.book.acknowledge(key, value)
            self.done += 1

    def end(self):
        self.ends.set()
        for thread in self.threads:
            thread.join()


# What etcd's clients do not try again by themselves when the node they use goes away: a write
# that was on its way. Everything else is an error that nobody should see.
RETRIED_BY_CALLERS = ["unavailable", "transport is closing", "server stopped", "EOF",
                      "connection", "leader changed", "timed out"]


def assert_only_retriable(load):
    others = [text for text in load.refused
              if not any(known.lower() in text.lower() for known in RETRIED_BY_CALLERS)]
    assert not others, others[:3]
    told = f"{load.done} done, {len(load.refused)} refused: {load.refused[:3]}"
    assert load.done > len(load.refused) * 10, told


@case
def a_rolling_restart_of_a_loaded_cluster_loses_nothing(cluster):
    book = Book()
    load = Load(cluster, book)
    try:
        for node in list(cluster.nodes):
            cluster.stop(node)
            cluster.restart(node)
            time.sleep(1)
    finally:
        load.end()
    assert_only_retriable(load)
    assert_on_every_node(cluster, book, lambda key, value: put(cluster, key, value),
                         lambda node: read_all(cluster, node))


@case
def a_lost_member_is_replaced_under_load(cluster):
    time.sleep(SETTLED_S)
    book = Book()
    load = Load(cluster, book)
    try:
        lost = next(node for node in cluster.nodes if node is not cluster.leader())
        ids = {member["name"]: f"{member['ID']:x}" for member in members(cluster)}
        cluster.kill(lost)
        left = [node.etcd for node in alive(cluster)]
        time.sleep(1)
        new = cluster.new_node(joins=True)
        assert len(statuses(cluster, alive(cluster))) == 2
        assert_refused("unhealthy cluster", cluster, "member", "add", new.name,
                       "--peer-urls", f"http://{new.peer}", endpoints=left)
        etcdctl(cluster, "member", "remove", ids[lost.name], endpoints=left)
        cluster.nodes.remove(lost)
        answer = etcdctl_json(cluster, "member", "add", new.name,
                              "--peer-urls", f"http://{new.peer}", endpoints=left)
        assert answer["member"].get("isLearner", False) is False
        cluster.nodes.append(new)
        cluster.restart(new)
    finally:
        load.end()
    assert_only_retriable(load)
    assert_on_every_node(cluster, book, lambda key, value: put(cluster, key, value),
                         lambda node: read_all(cluster, node))
    assert len(members(cluster)) == 3
    time.sleep(1)
    assert len(hashes(cluster, cluster.nodes)) == 1


if __name__ == "__main__":
    cases.run("members")
