"""Leases through the Python package etcd3, and two hundred of them under failing leaders."""

import threading
import time

import etcd3
import grpc
from etcd3 import etcdrpc

from cases import case
from cluster import wait_until

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
        return error.__context__.code(), error.__context__.details()
    raise AssertionError("the call was expected to fail")


def keep_alive(etcd, ids):
    """Renews all of these over one stream; what each answer says, in order."""
    requests = [etcdrpc.LeaseKeepAliveRequest(ID=id) for id in ids]
    # The stream stays open until all is answered: a server may drop what is under way when its
    # client says that nothing more comes.
    answered = threading.Event()

    def send():
        yield from requests
        answered.wait(5)

    answers = etcd.leasestub.LeaseKeepAlive(send(), timeout=5)
    try:
        return [next(answers) for _ in requests]
    finally:
        answered.set()


@case
def a_lease_takes_its_keys_along(cluster):
    first, second, third = [client(node) for node in cluster.nodes]
    lease = first.lease(60)
    assert lease.ttl == 60 and lease.id > 0
    second.put("python/lease/b", "x", lease=lease)
    second.put("python/lease/a", "x", lease=lease.id)
    info = third.get_lease_info(lease.id)
    assert info.ID == lease.id and info.grantedTTL == 60 and 0 < info.TTL <= 60
    assert sorted(info.keys) == [b"python/lease/a", b"python/lease/b"]
    assert second.get("python/lease/a")[1].lease_id == lease.id
    before = first.put("python/other", "x").header.revision
    third.revoke_lease(lease.id)
    assert first.put("python/other", "y").header.revision == before + 2, "two keys, one revision"
    assert list(first.get_prefix("python/lease/")) == []
    assert first.get_lease_info(lease.id).TTL == -1


@case
def ids_are_the_clients_choice_and_taken_once(cluster):
    etcd = client(cluster.nodes[1])
    for id in [77, -77, -2**63, 2**63 - 1]:
        assert etcd.lease(60, id).id == id
    code, text = refusal(lambda: etcd.lease(60, -77))
    assert (code, text) == (grpc.StatusCode.FAILED_PRECONDITION,
                            "etcdserver: lease already exists"), (code, text)
    for id in [77, -77, -2**63, 2**63 - 1]:
        etcd.revoke_lease(id)
    code, text = refusal(lambda: etcd.revoke_lease(77))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND,
                            "etcdserver: requested lease not found"), (code, text)
    code, text = refusal(lambda: etcd.lease(9_000_000_001))
    assert (code, text) == (grpc.StatusCode.OUT_OF_RANGE,
                            "etcdserver: too large lease TTL"), (code, text)
    assert etcd.lease(-5, 78).ttl >= 2
    etcd.revoke_lease(78)


@case
def keep_alives_are_answered_in_order_and_an_unknown_lease_has_no_time(cluster):
    etcd = client(cluster.nodes[2])
    ids = [etcd.lease(30 + number).id for number in range(20)]
    asked = [id for id in ids for _ in range(10)] + [4242]
    answers = keep_alive(etcd, asked)
    assert [answer.ID for answer in answers] == asked
    assert answers[-1].TTL == 0
    ttls = [answer.TTL for answer in answers[:-1]]
    assert ttls == [30 + number for number in range(20) for _ in range(10)]
    assert all(answer.header.member_id and answer.header.revision for answer in answers)
    for id in ids:
        etcd.revoke_lease(id)


@case
def leases_are_listed_by_when_they_end(cluster):
    etcd = client(cluster.nodes[0])
    ids = [etcd.lease(ttl).id for ttl in [300, 100, 200]]
    answer = etcd.leasestub.LeaseLeases(etcdrpc.LeaseLeasesRequest(), timeout=10)
    listed = [status.ID for status in answer.leases if status.ID in ids]
    assert listed == [ids[1], ids[2], ids[0]]
    for id in ids:
        etcd.revoke_lease(id)


class Keeper:
    """Keeps leases alive through whatever node answers, until told to let go of some."""

    def __init__(self, cluster, ids, ttl_s, safe_until):
        self.cluster = cluster
        self.ttl_s = ttl_s
        self.alive = set(ids)
        self.safe_until = dict.fromkeys(ids, safe_until)
        self.avoid = None
        self.said_gone = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        clients = {}
        while not self.stop.wait(0.3):
            for node in self.cluster.nodes:
                if node is self.avoid or not node.alive:
                    clients.pop(node.name, None)
                    continue
                etcd = clients.get(node.name) or client(node, timeout_s=2)
                clients[node.name] = etcd
                if self.renew(etcd):
                    break
                clients.pop(node.name, None)

    def renew(self, etcd):
        ids = sorted(self.alive)
        sent = time.monotonic()
        try:
            answers = keep_alive(etcd, ids)
        except (*FAILURES, StopIteration):
            return False
        for answer in answers:
            if answer.TTL > 0:
                self.safe_until[answer.ID] = sent + self.ttl_s
            elif sent < self.safe_until[answer.ID]:
                self.said_gone.append(answer.ID)
        return True

    def let_go(self, ids):
        self.alive -= set(ids)


@case
def no_lease_ends_early_and_the_dead_ones_end_while_leaders_are_paused_and_killed(cluster):
    count, ttl_s = 200, 6
    etcd = client(cluster.nodes[0])
    granted = time.monotonic()
    ids = list(range(10_001, 10_001 + count))
    for id in ids:
        etcd.lease(ttl_s, id)
        etcd.put(f"fire/{id}", "x", lease=id)
    # From here on, counted from before anything was asked.
    keeper = Keeper(cluster, ids, ttl_s, granted + ttl_s)

    def missing(node):
        """Which keys a node has no more, and those of them that went too early."""
        before = time.monotonic()
        safe = {id for id, until in keeper.safe_until.items() if until > before}
        try:
            pairs = client(node, timeout_s=2).get_prefix("fire/", keys_only=True)
            here = {int(metadata.key.decode().split("/")[1]) for _, metadata in pairs}
        except FAILURES:
            return None
        early = [id for id in ids if id not in here and id in safe
                 and keeper.safe_until[id] > time.monotonic()]
        assert not early, f"{len(early)} of {count} ended early, e.g. {early[:3]}"
        assert not keeper.said_gone, f"said to be gone early: {keeper.said_gone[:3]}"
        return {id for id in ids if id not in here}

    def look_around(duration_s, avoid=None):
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            for node in cluster.nodes:
                if node is not avoid and node.alive:
                    missing(node)
            time.sleep(0.1)

    dead = []
    for round in range(4):
        letting_go = ids[round * 25:(round + 1) * 25]
        keeper.let_go(letting_go)
        dead += letting_go
        leader = cluster.leader()
        keeper.avoid = leader
        if round % 2 == 0:
            cluster.pause(leader)
            look_around(4, avoid=leader)
            cluster.resume(leader)
        else:
            cluster.kill(leader)
            look_around(2)
            cluster.restart(leader)
        keeper.avoid = None
        look_around(2)
    for node in cluster.nodes:
        wait_until("the dead ones to end", lambda node=node: missing(node) == set(dead))
    look_around(ttl_s)
    keeper.stop.set()
    keeper.thread.join()
    wait_until("the rest to end", lambda: missing(cluster.nodes[0]) == set(ids))
