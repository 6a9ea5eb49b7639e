"""Keyspaces on five nodes, used through every node by the Python package etcd3.

Each keyspace has three replicas, so two of the five nodes hold nothing of it: what they are asked,
they carry on to one that does. The client names the keyspace in its metadata, in the host that it
asks for, or not at all, by the listener that it connects to. Only quorate has keyspaces.
"""

import base64
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import etcd3
import grpc

import cases
from cases import Book, case
from cluster import Cluster, fetch_json, free_ports, wait_until
from etcdctl import Refused, etcdctl, etcdctl_json

FAILURES = (etcd3.exceptions.Etcd3Exception, grpc.RpcError)
DOMAIN = "quorate.example"
PAUSE_S = 0.05


class Serving:
    """Starts nodes that have a listener of the keyspace `orders`, and know a domain."""

    def __init__(self, inner):
        self.inner = inner
        self.orders = {}

    def command(self, node, nodes):
        if node.name not in self.orders:
            self.orders[node.name] = f"127.0.0.1:{free_ports(1)[0]}"
        own = ["--keyspace-domain", DOMAIN]
        own += ["--listen-etcd-keyspace", f"orders={self.orders[node.name]}"]
        return self.inner.command(node, nodes) + own

    def __getattr__(self, name):
        return getattr(self.inner, name)


class FiveNodes(Cluster):
    def __init__(self, kind):
        super().__init__(kind, size=5)
        self.server = Serving(self.server)


def keyspace(cluster, *arguments, node=None):
    """`quorate keyspace ...` at a node; its output."""
    admin = (node or alive(cluster)[0]).admin
    command = [cluster.server.binary, "keyspace", *arguments, "--admin", admin]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def alive(cluster):
    return [node for node in cluster.nodes if node.alive]


def table(node):
    """The keyspaces, as a node lists them: name to the names of its holders."""
    listed = fetch_json(f"http://{node.admin}/keyspaces") or []
    return {each["name"]: each["replicas"] for each in listed}


def create(cluster, name, *arguments):
    """A new keyspace that every node knows and serves."""
    keyspace(cluster, "create", name, *arguments)
    for node in alive(cluster):
        wait_until(f"{node.name} to know {name}", lambda node=node: name in table(node))
        wait_until(f"{name} through {node.name}", lambda node=node: answers(node, name))


def answers(node, name):
    try:
        client(node, name, timeout_s=2).get("x")
        return True
    except FAILURES:
        return False


def holders(cluster, name):
    names = table(alive(cluster)[0])[name]
    return [node for node in cluster.nodes if node.name in names]


def others(cluster, name):
    holding = holders(cluster, name)
    return [node for node in cluster.nodes if node not in holding]


def client(node, name=None, timeout_s=10, address=None, authority=None):
    """A client that names a keyspace, in its metadata or as the host that it asks for."""
    host, port = (address or node.etcd).rsplit(":", 1)
    # A pool of the process would make a new client wait for what an older one has run into.
    options = [("grpc.use_local_subchannel_pool", 1)]
    options += [("grpc.default_authority", authority)] if authority else []
    made = etcd3.client(host=host, port=int(port), timeout=timeout_s, grpc_options=options)
    if name:
        made.metadata = (("quorate-keyspace", name),)
        made.watcher._metadata = made.metadata
    return made


def revision(etcd):
    return etcd.get_response("x").header.revision


def refusal(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    except etcd3.exceptions.Etcd3Exception as error:
        return error.__context__.code(), error.__context__.details()
    raise AssertionError("the call was expected to fail")


def gateway(node, path, body, name=None, timeout_s=20):
    """A call through the JSON gateway; its status and answer."""
    headers = {"Grpc-Metadata-Quorate-Keyspace": name} if name else {}
    url = f"http://{node.etcd}/v3/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@case
def every_node_serves_every_keyspace(cluster):
    create(cluster, "pods", "--replicas", "3")
    create(cluster, "jobs", "--replicas", "3", "--engine", "paxos")
    assert len(others(cluster, "pods")) == 2
    for name in ["pods", "jobs"]:
        for number, node in enumerate(cluster.nodes):
            etcd = client(node, name)
            etcd.put(f"k{number}", f"{name}{number}")
            done, _ = etcd.transaction(
                compare=[etcd.transactions.value(f"k{number}") == f"{name}{number}"],
                success=[etcd.transactions.put(f"t{number}", "yes")],
                failure=[],
            )
            assert done
        assert revision(client(cluster.nodes[0], name)) == 11, "its revisions are its own"
        for node in cluster.nodes:
            found = {meta.key.decode(): value.decode() for value, meta in client(node, name).get_all()}
            assert len(found) == 10 and found["k4"] == f"{name}4", found
    assert list(client(cluster.nodes[0]).get_all()) == [], "the default keyspace has none of it"
    # A value that does not fit into one piece of anything.
    large = bytes(1_000_000)
    client(others(cluster, "pods")[0], "pods").put("large", large)
    assert client(others(cluster, "pods")[1], "pods").get("large")[0] == large
    assert client(holders(cluster, "pods")[0], "pods").delete("large")


@case
def watches_see_their_keyspace_alone_through_every_node(cluster):
    nodes = cluster.nodes
    watching = [client(node, "pods").watch_prefix("w/") for node in nodes]
    beside = client(nodes[0]).watch_prefix("w/")
    first = revision(client(nodes[0], "pods"))
    client(nodes[0]).put("w/default", "x")
    client(nodes[1], "jobs").put("w/jobs", "x")
    for number in range(20):
        client(nodes[number % 5], "pods").put(f"w/{number}", str(number))
    for events, _ in watching:
        seen = [next(events) for _ in range(20)]
        assert [event.key.decode() for event in seen] == [f"w/{number}" for number in range(20)]
        assert [event.mod_revision for event in seen] == list(range(first + 1, first + 21))
    assert next(beside[0]).key == b"w/default"
    # From the past: history of the keyspace, read where it is.
    for node in nodes:
        events, cancel = client(node, "pods").watch_prefix("w/", start_revision=first + 1)
        assert [next(events).key.decode() for _ in range(20)][-1] == "w/19"
        cancel()
    for _, cancel in [*watching, beside]:
        cancel()


@case
def leases_live_and_end_in_their_keyspace(cluster):
    elsewhere, holder = others(cluster, "pods")[0], holders(cluster, "pods")[0]
    kept = client(elsewhere, "pods").lease(2)
    ending = client(holder, "pods").lease(2)
    alike = client(holder).lease(60, kept.id)
    client(elsewhere, "pods").put("lease/kept", "x", lease=kept)
    client(elsewhere, "pods").put("lease/ending", "x", lease=ending)
    client(holder).put("lease/default", "x", lease=alike)
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        [answer] = list(kept.refresh())
        assert answer.TTL == 2, answer
        time.sleep(0.5)
    etcd = client(holder, "pods")
    assert etcd.get("lease/kept")[0] == b"x", "it is kept alive through a node without a replica"
    assert etcd.get("lease/ending")[0] is None
    kept.revoke()
    assert etcd.get("lease/kept")[0] is None
    assert client(holder).get("lease/default")[0] == b"x", "another keyspace's has the same number"
    alike.revoke()


@case
def locks_and_elections_wait_through_every_node(cluster):
    nodes = [*others(cluster, "jobs"), *holders(cluster, "jobs")]
    held, waiting = nodes[0], nodes[1]
    status, first = gateway(held, "lock/lock", {"name": encoded("lock")}, "jobs")
    assert status == 200, first
    got = []

    def wait():
        got.append(gateway(waiting, "lock/lock", {"name": encoded("lock")}, "jobs"))

    second = threading.Thread(target=wait, daemon=True)
    second.start()
    # A lock of the same name elsewhere is another lock.
    status, beside = gateway(waiting, "lock/lock", {"name": encoded("lock")}, "pods")
    assert status == 200, beside
    time.sleep(1)
    assert not got, "two hold one lock"
    assert gateway(nodes[2], "lock/unlock", {"key": first["key"]}, "jobs")[0] == 200
    second.join(timeout=20)
    assert got and got[0][0] == 200, got
    gateway(held, "lock/unlock", {"key": got[0][1]["key"]}, "jobs")
    gateway(held, "lock/unlock", {"key": beside["key"]}, "pods")
    lease = client(nodes[3], "jobs").lease(60)
    campaign = {"name": encoded("e"), "lease": str(lease.id), "value": encoded("me")}
    status, elected = gateway(nodes[0], "election/campaign", campaign, "jobs")
    assert status == 200, elected
    status, leader = gateway(nodes[4], "election/leader", {"name": encoded("e")}, "jobs")
    assert status == 200 and leader["kv"]["value"] == encoded("me"), leader
    lease.revoke()


@case
def a_keyspace_is_chosen_by_metadata_host_or_listener(cluster):
    create(cluster, "orders", "--replicas", "3")
    for node in cluster.nodes:
        listener = cluster.server.orders[node.name]
        client(node, address=listener).put(f"by/listener/{node.name}", "x")
        authority = f"orders.{DOMAIN}"
        client(node, authority=authority).put(f"by/host/{node.name}", "x")
        # Metadata wins over the host, the host over the listener.
        client(node, "pods", authority=authority).put(f"by/metadata/{node.name}", "x")
        nearer = client(node, address=listener, authority=f"jobs.{DOMAIN}")
        nearer.put(f"by/host/{node.name}", "x")
        client(node, "default", address=listener).put(f"by/metadata/{node.name}", "x")
    counts = {
        name: len(list(client(cluster.nodes[0], name).get_prefix("by/", keys_only=True)))
        for name in ["orders", "pods", "jobs", "default"]
    }
    assert counts == {"orders": 10, "pods": 5, "jobs": 5, "default": 5}, counts
    for nobody in ["nobody", "Pods", "a/b"]:
        code, text = refusal(lambda: client(cluster.nodes[0], nobody).get("x"))
        assert code == grpc.StatusCode.NOT_FOUND and "no keyspace" in text, (code, text)
    unknown = client(cluster.nodes[0], authority=f"a.b.{DOMAIN}")
    assert refusal(lambda: unknown.get("x"))[0] == grpc.StatusCode.NOT_FOUND
    status, answer = gateway(cluster.nodes[0], "kv/range", {"key": encoded("x")}, "nobody")
    assert status == 404, (status, answer)


EVENTS = "/registry/events/"


def event_writer(node, key, value, lease_id):
    """As kube-apiserver creates an object: a transaction that puts it unless it is there."""
    etcd = client(node, timeout_s=5)
    done, _ = etcd.transaction(
        compare=[etcd.transactions.mod(key) == 0],
        success=[etcd.transactions.put(key, value, lease_id)],
        failure=[etcd.transactions.get(key)],
    )
    return done


def event_keys(node):
    return {meta.key.decode() for _, meta in client(node).get_prefix(EVENTS, keys_only=True)}


@case
def events_go_with_their_lease_beside_the_pods(cluster):
    """One address list, leases granted without a word of keyspaces, and keys of two keyspaces that
    go with one lease: by etcd's own client."""
    create(cluster, "events", "--replicas", "3")
    keyspace(cluster, "route", EVENTS, "events")
    for node in alive(cluster):
        wait_until(
            f"{node.name} to know the route",
            lambda node=node: "events" in keyspace(cluster, "routes", node=node),
        )
    elsewhere, holder = others(cluster, "events")[0], holders(cluster, "events")[0]
    for node in [elsewhere, holder]:
        through = {"endpoints": [node.etcd]}
        granted = etcdctl_json(cluster, "lease", "grant", "600", **through)
        lease = f"{granted['ID']:x}"
        etcdctl(cluster, "put", f"--lease={lease}", f"{EVENTS}a", "x", **through)
        etcdctl(cluster, "put", f"--lease={lease}", "/registry/pods/a", "x", **through)
        told = etcdctl_json(cluster, "lease", "timetolive", "--keys", lease, **through)
        keys = [base64.b64decode(key).decode() for key in told["keys"]]
        assert keys == [f"{EVENTS}a", "/registry/pods/a"] and told["granted-ttl"] == 600, told
        assert f"{granted['ID']:x}" in etcdctl(cluster, "lease", "list", **through)
        assert client(holder, "events").get(f"{EVENTS}a")[1].lease_id == granted["ID"]
        etcdctl(cluster, "lease", "revoke", lease, **through)
        for each in alive(cluster):
            assert event_keys(each) == set(), "what is revoked is gone when that is said"
            assert client(each).get("/registry/pods/a")[0] is None
        # It can be had again at once, and what went with the other one stays away.
        refused = None
        try:
            etcdctl(cluster, "put", f"--lease={lease}", f"{EVENTS}b", "x", **through)
        except Refused as error:
            refused = str(error)
        assert refused and "requested lease not found" in refused, refused
        again = client(elsewhere).lease(600, granted["ID"])
        assert event_writer(elsewhere, f"{EVENTS}again", "x", again.id)
        time.sleep(1)
        assert event_keys(holder) == {f"{EVENTS}again"}
        again.revoke()
        assert event_keys(elsewhere) == set()
    # Whoever has a lease of the same id in the keyspace itself keeps it.
    own = client(holder, "events").lease(600, 4711)
    client(holder).lease(600, 4711)
    code, text = refusal(lambda: client(elsewhere).put(f"{EVENTS}c", "x", lease=4711))
    assert "another lease of this id" in text, (code, text)
    client(holder).revoke_lease(4711)
    assert [answer.TTL for answer in own.refresh()] == [600]
    own.revoke()


@case
def events_end_on_time_whichever_leader_dies(cluster):
    """Events are written with leases of a few seconds while the leader of the events, and then that
    of the leases, is killed: none ends early, and none stays."""
    ttl_s, late_s = 4, 12
    written, stop, early = {}, threading.Event(), []

    def group_leader(name):
        told = [fetch_json(f"http://{node.admin}/keyspaces") or [] for node in alive(cluster)]
        names = [each["leader"] for all in told for each in all if each["name"] == name]
        names = [each for each in names if each]
        return next((node for node in alive(cluster) if names and node.name == names[-1]), None)

    def write(number):
        count, lease, begun = 0, None, 0.0
        while not stop.is_set():
            count += 1
            try:
                node = alive(cluster)[number % len(alive(cluster))]
                if lease is None or time.monotonic() > begun + 1:
                    begun = time.monotonic()
                    lease = client(node, timeout_s=5).lease(ttl_s).id
                key = f"{EVENTS}{number}/{count}"
                if event_writer(node, key, "x", lease):
                    # It may end so long after its lease was granted, and not before.
                    written[key] = begun + ttl_s
            except FAILURES:
                lease = None
                time.sleep(PAUSE_S)
            time.sleep(PAUSE_S)

    def watch():
        while not stop.is_set():
            try:
                node = alive(cluster)[0]
                seen = event_keys(node)
                early.extend(
                    key for key, until in list(written.items())
                    if key not in seen and time.monotonic() < until and key in known
                )
                known.update(seen)
            except FAILURES:
                pass
            time.sleep(0.3)

    known = set()
    kept = client(cluster.nodes[0]).lease(ttl_s)
    event_writer(cluster.nodes[0], f"{EVENTS}kept", "x", kept.id)

    def keep():
        while not stop.is_set():
            try:
                list(client(alive(cluster)[-1], timeout_s=5).refresh_lease(kept.id))
            except FAILURES:
                pass
            time.sleep(0.5)

    threads = [threading.Thread(target=write, args=(each,), daemon=True) for each in range(4)]
    threads += [threading.Thread(target=each, daemon=True) for each in (watch, keep)]
    for thread in threads:
        thread.start()
    for victim in [lambda: group_leader("events"), cluster.leader]:
        time.sleep(3)
        node = wait_until("a leader", victim)
        cluster.kill(node)
        time.sleep(6)
        cluster.restart(node)
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
    assert len(written) > 50, "hardly anything was written"
    assert not early, f"ended early: {early[:5]}"
    assert f"{EVENTS}kept" in known
    wait_until("all to end", lambda: not event_keys(alive(cluster)[0]), ttl_s + late_s)
    for node in alive(cluster):
        assert list(client(node, "events").get_all()) == []
    keyspace(cluster, "unroute", EVENTS)
    keyspace(cluster, "drop", "events")


@case
def a_node_dies_while_keyspaces_are_used(cluster):
    names, book, stop = ["pods", "jobs", "orders"], {}, threading.Event()
    # Nobody's own node: all others see what becomes of the calls that it carried on.
    victim = cluster.leader()
    rest = [node for node in cluster.nodes if node is not victim]
    events, leases, threads, refused = {}, {}, [], []

    def write(name, number):
        node = rest[number]
        etcd = client(node, name, timeout_s=5)
        key, count = f"load/{number}", 0
        while not stop.is_set():
            count += 1
            value = str(count)
            book[name].attempt(f"{key}/{count % 50}", value)
            try:
                etcd.put(f"{key}/{count % 50}", value)
                book[name].acknowledge(f"{key}/{count % 50}", value)
            except FAILURES:
                time.sleep(PAUSE_S)

    def watch(name, node):
        """As clients do: a watch that breaks goes on behind what it has seen."""
        seen, after = events[name], revisions[name]
        while True:
            try:
                etcd = client(node, name, timeout_s=5)
                ticks, cancel = etcd.watch_prefix("load/", start_revision=after + 1)
                for event in ticks:
                    assert event.mod_revision >= after, "a watch goes back"
                    after = event.mod_revision
                    seen.append((event.key.decode(), event.value.decode(), after))
                    if event.key == b"load/end":
                        return
            except FAILURES:
                time.sleep(PAUSE_S)

    def keep(name, node):
        lease = leases[name]
        while not stop.is_set():
            try:
                [answer] = list(client(node, name, timeout_s=5).refresh_lease(lease.id))
                if answer.TTL == 0:
                    refused.append((name, "its lease has ended"))
                    return
            except FAILURES:
                pass
            time.sleep(0.3)

    revisions, writers = {}, []
    for index, name in enumerate(names):
        book[name], events[name] = Book(), []
        revisions[name] = revision(client(rest[0], name))
        leases[name] = client(rest[0], name).lease(5)
        client(rest[0], name).put("leased", "x", lease=leases[name])
        threads += [
            threading.Thread(target=watch, args=(name, rest[(index + 1) % 4]), daemon=True),
            threading.Thread(target=keep, args=(name, rest[(index + 2) % 4]), daemon=True),
        ]
        for each in range(4):
            writers.append(threading.Thread(target=write, args=(name, each), daemon=True))
    for thread in threads + writers:
        thread.start()
    time.sleep(2)
    cluster.kill(victim)
    # Every keyspace goes on through every node that is left.
    for name in names:
        for node in rest:
            wait_until(f"{name} through {node.name}", lambda n=name, at=node: answers(at, n), 20)
    time.sleep(6)
    cluster.restart(victim)
    time.sleep(1)
    stop.set()
    for thread in writers:
        thread.join(timeout=30)
    for name in names:
        client(rest[0], name).put("load/end", "x")
    for thread in threads:
        thread.join(timeout=30)
    assert not refused, refused
    for name in names:
        assert client(victim, name).get("leased")[0] == b"x", "a lease that was renewed has ended"
        found = {m.key.decode(): v.decode() for v, m in client(victim, name).get_prefix("load/")}
        lost = book[name].lost(found)
        assert not lost, f"{name} lost {len(lost)} writes, e.g. {lost[:3]}"
        assert len(book[name].acknowledged) > 100, "hardly anything was written"
        seen = events[name]
        assert seen and seen[-1][0] == "load/end", f"the watch in {name} has stopped"
        assert len({mod for _, _, mod in seen}) == len(seen), "an event came twice"
        last = {}
        for key, value, _ in seen:
            last[key] = value
        assert last == found, "the events do not lead to what is there"


@case
def users_are_those_of_the_cluster(cluster):
    def as_root(path, body, headers=None):
        url = f"http://{cluster.nodes[0].etcd}/v3/auth/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers or {})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def sign_in(node, user, name):
        token = as_root("authenticate", {"name": user, "password": "secret"})["token"]
        made = client(node)
        made.metadata = (("token", token), ("quorate-keyspace", name))
        made.watcher._metadata = made.metadata
        return made

    for user in ["root", "alice"]:
        as_root("user/add", {"name": user, "password": "secret"})
    for role in ["root", "keyspace:pods"]:
        as_root("role/add", {"name": role})
    as_root("user/grant", {"user": "root", "role": "root"})
    as_root("user/grant", {"user": "alice", "role": "keyspace:pods"})
    as_root("enable", {})
    token = as_root("authenticate", {"name": "root", "password": "secret"})["token"]
    try:
        for node in cluster.nodes:
            wait_until(
                f"{node.name} to ask for a password",
                lambda node=node: not answers(node, "pods"),
            )
            alice = sign_in(node, "alice", "pods")
            alice.put(f"alice/{node.name}", "x")
            events, cancel = alice.watch_prefix("alice/", start_revision=1)
            assert next(events).key.startswith(b"alice/")
            cancel()
            for stranger in [sign_in(node, "alice", "jobs"), sign_in(node, "alice", "default")]:
                code, _ = refusal(lambda: stranger.put("x", "x"))
                assert code == grpc.StatusCode.PERMISSION_DENIED, code
            code, _ = refusal(lambda: list(sign_in(node, "alice", "jobs").refresh_lease(7)))
            assert code == grpc.StatusCode.PERMISSION_DENIED, code
            sign_in(node, "root", "jobs").put("root", "x")
    finally:
        as_root("disable", {}, {"Authorization": token})
    for node in cluster.nodes:
        wait_until(f"{node.name} to let all in", lambda node=node: answers(node, "jobs"))


class Secured(Serving):
    """The same with TLS, for clients and between nodes; clients are who their certificates say."""

    def __init__(self, inner, folder):
        super().__init__(inner)
        self.folder = folder / "certificates"
        for made in [
            ["authority"],
            ["node", "n", "--host", "localhost,127.0.0.1"],
            ["client", "root"],
            ["client", "alice"],
        ]:
            command = [inner.binary, "cert", *made, "--dir", str(self.folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def file(self, name):
        return str(self.folder / name)

    def command(self, node, nodes):
        own = ["--bcrypt-cost", "4"]
        for kind in ["", "peer-"]:
            own += [f"--{kind}cert-file", self.file("n.pem")]
            own += [f"--{kind}key-file", self.file("n-key.pem")]
            own += [f"--{kind}trusted-ca-file", self.file("ca.pem")]
            own += [f"--{kind}client-cert-auth", "true"]
        return super().command(node, nodes) + own


@case
def a_certificate_names_its_user_through_every_node(_):
    with Cluster("quorate") as cluster:
        secure(cluster)


def secure(cluster):
    cluster.kill_all()
    for node in cluster.nodes:
        shutil.rmtree(node.folder / "data")
    cluster.server = Secured(cluster.server, cluster.folder)
    cluster.restart(*cluster.nodes)

    def by(user, node, name=None):
        host, port = node.etcd.rsplit(":", 1)
        certificate = [cluster.server.file(f) for f in ["ca.pem", f"{user}-key.pem", f"{user}.pem"]]
        made = etcd3.client(host, int(port), *certificate, timeout=10)
        if name:
            made.metadata = (("quorate-keyspace", name),)
            made.watcher._metadata = made.metadata
        return made

    def root(*arguments):
        files = [cluster.server.file(f) for f in ["ca.pem", "root.pem", "root-key.pem"]]
        options = [f"--{flag}={file}" for flag, file in zip(["cacert", "cert", "key"], files)]
        command = ["etcdctl", f"--endpoints={cluster.nodes[0].etcd}", *options, *arguments]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    keyspace(cluster, "create", "orders", "--replicas", "1")
    for node in cluster.nodes:
        wait_until(f"{node.name} to know it", lambda node=node: "orders" in table(node))
    for name in ["root", "keyspace:orders"]:
        root("role", "add", name)
    for user, role in [("root", "root"), ("alice", "keyspace:orders")]:
        root("user", "add", f"{user}:secret")
        root("user", "grant-role", user, role)
    root("auth", "enable")
    for number, node in enumerate(cluster.nodes):
        alice = by("alice", node, "orders")

        def may(alice=alice, number=number):
            try:
                return alice.put(f"k{number}", "x")
            except FAILURES:
                return None

        wait_until(f"alice at {node.name}", may)
        events, cancel = alice.watch_prefix("k", start_revision=1)
        assert [next(events).key.decode() for _ in range(number + 1)][-1] == f"k{number}"
        cancel()
        code, _ = refusal(lambda: by("alice", node).put("x", "x"))
        assert code == grpc.StatusCode.PERMISSION_DENIED, code
    # Nor is she somebody else where her keys follow a lease of the default keyspace.
    keyspace(cluster, "route", "/orders/", "orders")
    for number, node in enumerate(cluster.nodes):
        wait_until(
            f"{node.name} to know the route",
            lambda node=node: "orders" in keyspace(cluster, "routes", node=node),
        )
        alice = by("alice", node)
        lease = alice.lease(60)
        alice.put(f"/orders/{number}", "x", lease=lease)
        assert list(lease.keys) == [f"/orders/{number}".encode()], lease.keys
        [answer] = list(lease.refresh())
        assert answer.TTL == 60, answer
        lease.revoke()
    root("user", "revoke-role", "alice", "keyspace:orders")
    for node in cluster.nodes:

        def is_refused(node=node):
            try:
                by("alice", node, "orders").get("k0")
                return False
            except FAILURES as error:
                return "permission denied" in str(error)

        wait_until(f"{node.name} to refuse alice", is_refused)
    root("auth", "disable")


@case
def what_is_dropped_is_gone_everywhere(cluster):
    watching = [client(node, "orders") for node in cluster.nodes]
    for etcd in watching:
        etcd.watch_prefix("x")
    keyspace(cluster, "drop", "orders")
    for node in cluster.nodes:
        wait_until(f"{node.name} to drop it", lambda node=node: "orders" not in table(node))
        code, text = refusal(lambda: client(node, "orders").get("x"))
        assert code == grpc.StatusCode.NOT_FOUND and "no keyspace" in text, (code, text)
    create(cluster, "orders", "--replicas", "3")
    for node in cluster.nodes:
        assert list(client(node, "orders").get_all()) == [], "what was dropped is back"


if __name__ == "__main__":
    cases.run("keyspaces", FiveNodes)
