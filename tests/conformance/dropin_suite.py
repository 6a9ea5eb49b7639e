"""A cluster that is started by etcd's own flags, with TLS, and reached as etcd's users reach it.

Both servers get the same command line but for the binary. `quorate cert` makes the certificates.
"""

import base64
import http.client
import json
import signal
import ssl
import subprocess
import sys

import websocket

import cases
from cases import case
from cluster import Cluster, server
from etcdctl import Refused, etcdctl

TIMEOUT_S = 30


class ByEtcdsFlags:
    """Starts either server with etcd's flags."""

    def __init__(self, kind, folder):
        quorate = server("quorate").binary
        # etcd lets pages of all origins in unless told otherwise.
        self.lets_pages_in = kind == "etcd"
        # Once it has formed, the flags that make it do so may be left out.
        self.has_formed = False
        self.binary = [quorate, "etcd"] if kind == "quorate" else [server("etcd").binary]
        self.certificates = folder / "certificates"
        for arguments in [
            ["authority"],
            ["node", "n", "--host", "localhost,127.0.0.1"],
            ["client", "alice"],
            ["client", "mallory"],
        ]:
            command = [quorate, "cert", *arguments, "--dir", str(self.certificates)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        mallory = str(self.file("mallory.pem"))
        command = [quorate, "cert", "revoke", mallory, "--dir", str(self.certificates)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def file(self, name):
        return self.certificates / name

    def command(self, node, nodes):
        certificate, key, authority = (
            str(self.file(name)) for name in ["n.pem", "n-key.pem", "ca.pem"]
        )
        initial = [] if self.has_formed else [
            "--initial-advertise-peer-urls", f"https://{node.peer}",
            "--initial-cluster", ",".join(f"{other.name}=https://{other.peer}" for other in nodes),
            "--initial-cluster-state", "new",
        ]
        return [
            *self.binary,
            "--name", node.name,
            "--data-dir", str(node.folder / "data"),
            "--listen-peer-urls", f"https://{node.peer}",
            *initial,
            "--listen-client-urls", f"https://{node.etcd}",
            "--advertise-client-urls", f"https://{node.etcd}",
            "--snapshot-count", "10000",
            "--cert-file", certificate,
            "--key-file", key,
            "--trusted-ca-file", authority,
            "--client-cert-auth",
            "--client-crl-file", str(self.file("revoked.pem")),
            "--peer-cert-file", certificate,
            "--peer-key-file", key,
            "--peer-trusted-ca-file", authority,
            "--peer-client-cert-auth=true",
        ]

    def context(self, client="alice"):
        context = ssl.create_default_context(cafile=self.file("ca.pem"))
        if client:
            context.load_cert_chain(self.file(f"{client}.pem"), self.file(f"{client}-key.pem"))
        return context

    def ask(self, node, method, path, body=None, client="alice"):
        """Status and body of an answer over HTTP/1.1."""
        host, port = node.etcd.split(":")
        connection = http.client.HTTPSConnection(
            host, int(port), timeout=TIMEOUT_S, context=self.context(client))
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def call(self, node, path, body):
        """The JSON of a call through the gateway, and its status."""
        status, text = self.ask(node, "POST", f"/v3/{path}", json.dumps(body))
        return status, json.loads(text)

    def leads(self, node):
        try:
            status, answer = self.call(node, "maintenance/status", {})
        except (OSError, ValueError):
            return None
        if status != 200 or answer.get("leader") != answer["header"]["member_id"]:
            return None
        return int(answer["raftTerm"])

    def ready(self, node):
        try:
            status, text = self.ask(node, "GET", "/health")
        except OSError:
            return False
        return status == 200 and json.loads(text)["health"] == "true"


class Secured(Cluster):
    def __init__(self, kind):
        super().__init__(kind)
        self.server = ByEtcdsFlags(kind, self.folder)

    def etcdctl(self, *arguments, client="alice"):
        files = ["--cacert", str(self.server.file("ca.pem"))]
        if client:
            files += ["--cert", str(self.server.file(f"{client}.pem")),
                      "--key", str(self.server.file(f"{client}-key.pem"))]
        endpoints = [f"https://{node.etcd}" for node in self.nodes]
        return etcdctl(self, *files, *arguments, endpoints=endpoints, timeout_s=10)


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@case
def etcdctl_speaks_tls_with_a_certificate(cluster):
    assert cluster.etcdctl("put", "greeting", "hello") == "OK\n"
    assert cluster.etcdctl("get", "greeting") == "greeting\nhello\n"


@case
def nobody_is_let_in_without_one_or_with_a_revoked_one(cluster):
    for client in [None, "mallory"]:
        try:
            printed = cluster.etcdctl("get", "greeting", client=client)
        except Refused:
            continue
        raise AssertionError(f"{client} read {printed!r}")


@case
def members_are_told_with_the_scheme_of_their_addresses(cluster):
    status, answer = cluster.server.call(cluster.nodes[0], "cluster/member/list", {})
    assert status == 200, answer
    for member in answer["members"]:
        urls = [*member["peerURLs"], *member["clientURLs"]]
        assert all(url.startswith("https://") for url in urls), urls


@case
def calls_go_through_the_gateway_of_every_node(cluster):
    for number, node in enumerate(cluster.nodes):
        pair = {"key": encoded(f"json/{number}"), "value": encoded("x")}
        status, answer = cluster.server.call(node, "kv/put", pair)
        assert (status, list(answer)) == (200, ["header"]), answer
    pair = {"key": encoded("json/"), "rangeEnd": encoded("json0"), "sort_order": "DESCEND"}
    status, answer = cluster.server.call(cluster.nodes[0], "kv/range", pair)
    assert status == 200 and answer["count"] == "3", answer
    keys = [base64.b64decode(found["key"]).decode() for found in answer["kvs"]]
    assert keys == ["json/2", "json/1", "json/0"]
    assert all(isinstance(found["mod_revision"], str) for found in answer["kvs"])


@case
def errors_of_the_gateway_have_their_codes(cluster):
    for path, body, expected in [
        ("kv/range", {}, (400, 3, "etcdserver: key is not provided")),
        ("kv/compaction", {"revision": 99999},
         (400, 11, "etcdserver: mvcc: required revision is a future revision")),
        ("lease/revoke", {"ID": "99"}, (404, 5, "etcdserver: requested lease not found")),
        ("election/leader", {"name": encoded("nobody")}, (500, 2, "election: no leader")),
    ]:
        status, answer = cluster.server.call(cluster.nodes[1], path, body)
        assert (status, answer["code"], answer["message"]) == expected, answer
        assert answer["error"] == answer["message"]


@case
def a_keep_alive_is_a_line(cluster):
    node = cluster.nodes[0]
    status, granted = cluster.server.call(node, "lease/grant", {"TTL": 30})
    assert status == 200, granted
    status, answer = cluster.server.call(node, "lease/keepalive", {"ID": granted["ID"]})
    assert status == 200 and answer["result"]["ID"] == granted["ID"], answer
    assert answer["result"]["TTL"] == "30"


@case
def a_watch_is_lines_as_they_happen(cluster):
    host, port = cluster.nodes[2].etcd.split(":")
    connection = http.client.HTTPSConnection(
        host, int(port), timeout=TIMEOUT_S, context=cluster.server.context())
    create = {"create_request": {"key": encoded("watched")}}
    connection.request("POST", "/v3/watch", json.dumps(create))
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(answer.readline())["result"]["created"] is True
    for value in ["1", "2"]:
        assert cluster.etcdctl("put", "watched", value) == "OK\n"
        [event] = json.loads(answer.readline())["result"]["events"]
        assert event["kv"]["value"] == encoded(value)
    connection.close()


def open_websocket(cluster, path, **options):
    """A connection of PyPI's `websocket-client`."""
    return websocket.create_connection(
        f"wss://{cluster.nodes[2].etcd}/v3/{path}", timeout=TIMEOUT_S,
        sslopt={"context": cluster.server.context()}, suppress_origin=True, **options)


@case
def a_websocket_brings_events_while_it_is_asked(cluster):
    connection = open_websocket(cluster, "watch")
    for number, key in enumerate(["first", "second"]):
        create = {"create_request": {"key": encoded(key), "watch_id": 7 + number}}
        connection.send(json.dumps(create))
        told = json.loads(connection.recv())["result"]
        assert told["created"] is True and told["watch_id"] == str(7 + number), told
    for key in ["second", "first"]:
        assert cluster.etcdctl("put", key, "1") == "OK\n"
        [event] = json.loads(connection.recv())["result"]["events"]
        assert event["kv"]["key"] == encoded(key)
    connection.close()


@case
def a_websocket_takes_calls_with_one_answer(cluster):
    for body, member in [({"key": encoded("w"), "value": encoded("1")}, "header"), ({}, "message")]:
        connection = open_websocket(cluster, "kv/put")
        connection.send(json.dumps(body))
        assert member in json.loads(connection.recv())
        connection.close()


@case
def a_page_of_another_origin_opens_no_websocket(cluster):
    try:
        open_websocket(cluster, "watch", header=["Origin: https://page.example"])
    except websocket.WebSocketBadStatusException as refused:
        assert refused.status_code == 403 and not cluster.server.lets_pages_in, refused
    else:
        assert cluster.server.lets_pages_in, "it was let in"


@case
def versions_are_numbers(cluster):
    status, text = cluster.server.ask(cluster.nodes[0], "GET", "/version")
    version = json.loads(text)
    assert status == 200
    for name in ["etcdserver", "etcdcluster"]:
        assert len([int(part) for part in version[name].split(".")]) == 3, version


@case
def the_dashboards_names_are_there(cluster):
    status, text = cluster.server.ask(cluster.nodes[0], "GET", "/metrics")
    assert status == 200
    samples = {line.split("{")[0].split(" ")[0] for line in text.splitlines()}
    for name in [
        "etcd_server_has_leader",
        "etcd_server_is_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_failed_total",
        "etcd_server_proposals_pending",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_quota_backend_bytes",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_network_peer_round_trip_time_seconds_bucket",
        "etcd_network_peer_sent_bytes_total",
        "etcd_network_peer_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "grpc_server_handled_total",
        "grpc_server_started_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
    ]:
        assert name in samples, name


@case
def a_node_that_is_killed_comes_back(cluster):
    killed = cluster.nodes[0]
    cluster.kill(killed)
    for number in range(10):
        assert cluster.etcdctl("put", f"meanwhile/{number}", "x") == "OK\n"
    cluster.restart(killed)
    count = cluster.etcdctl("get", "meanwhile/", "--prefix", "--keys-only").split()
    assert len(count) == 10


@case
def nodes_with_data_need_none_of_the_flags_that_form_a_cluster(cluster):
    def peers():
        status, answer = cluster.server.call(cluster.nodes[0], "cluster/member/list", {})
        assert status == 200, answer
        return sorted((member["name"], member["peerURLs"]) for member in answer["members"])

    before = peers()
    cluster.server.has_formed = True
    for node in cluster.nodes:
        cluster.stop(node)
        cluster.restart(node)
    assert cluster.etcdctl("put", "formed", "once") == "OK\n"
    assert peers() == before, peers()


@case
def who_is_told_to_stop_ends_by_the_signal(cluster):
    node = cluster.nodes[0]
    cluster.stop(node)
    assert node.process.returncode == -signal.SIGTERM, node.process.returncode
    cluster.restart(node)


if __name__ == "__main__":
    sys.exit(cases.run("dropin", Secured))
