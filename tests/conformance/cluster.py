"""Three real server processes on loopback, whose leader can be killed and restarted.

The same harness starts quorate or real etcd. A suite that passes against etcd states how etcd
behaves; only then is it a test of quorate. Whatever differs between the two servers (command
line, who leads) is in the classes `Quorate` and `Etcd`; suites see neither.
"""

import atexit
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

# How long anything may take before it counts as hung. Deliberately generous: a slow machine must
# not fail a suite; how fast the product is, is measured elsewhere.
HANG_S = 60


class Hung(Exception):
    """Something did not happen within `HANG_S`."""


def wait_until(what, probe, timeout_s=HANG_S):
    """Calls `probe` until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.02)
    raise Hung(f"waited {timeout_s} s for {what}")


def free_ports(count):
    """Ports nobody listens on, below the range that outgoing connections take theirs from:
    a node's port must still be free when the node comes back after a kill."""
    ports = []
    while len(ports) < count:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


@dataclass
class Node:
    """One server process (or the place where one was, while it is dead)."""

    name: str
    folder: Path
    peer: str
    etcd: str
    admin: str
    # It was added to a cluster that runs, and does not form one.
    joins: bool = False
    process: subprocess.Popen | None = field(default=None, repr=False)
    # KiB of memory that it used when its peak was last forgotten.
    used: int = 0

    @property
    def log(self):
        return self.folder / "log"

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None


def fetch_json(url, body=None):
    """The JSON behind a URL, or None if the server gives no answer now."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=2) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def answers(url):
    """Whether a URL answers, and with success."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


class Quorate:
    """How to start a quorate node, and how to ask it who leads."""

    def __init__(self, binary):
        self.binary = binary

    def command(self, node, nodes):
        return [
            self.binary, "serve",
            "--name", node.name,
            "--data-dir", str(node.folder / "data"),
            "--listen-peer", node.peer,
            "--listen-etcd", node.etcd,
            "--listen-admin", node.admin,
            *(
                ["--join", ",".join(other.peer for other in nodes if other is not node)]
                if node.joins else
                ["--cluster", ",".join(f"{other.name}={other.peer}" for other in nodes)]
            ),
        ]

    def leads(self, node):
        """The term in which this node leads, or None."""
        status = fetch_json(f"http://{node.admin}/status")
        return status["term"] if status and status["role"] == "leader" else None

    def ready(self, node):
        """Whether the node would serve a linearizable read."""
        return answers(f"http://{node.admin}/readyz")


class Etcd:
    """The same for etcd 3.4 or later."""

    def __init__(self, binary):
        self.binary = binary

    def command(self, node, nodes):
        return [
            self.binary,
            "--name", node.name,
            "--data-dir", str(node.folder / "data"),
            "--listen-peer-urls", f"http://{node.peer}",
            "--initial-advertise-peer-urls", f"http://{node.peer}",
            "--listen-client-urls", f"http://{node.etcd}",
            "--advertise-client-urls", f"http://{node.etcd}",
            "--initial-cluster", ",".join(f"{other.name}=http://{other.peer}" for other in nodes),
            "--initial-cluster-state", "existing" if node.joins else "new",
            "--logger", "zap",
        ]

    def leads(self, node):
        status = fetch_json(f"http://{node.etcd}/v3/maintenance/status", {})
        if not status or status.get("leader") != status["header"]["member_id"]:
            return None
        return int(status["raftTerm"])

    def ready(self, node):
        return answers(f"http://{node.etcd}/health")


def server(kind):
    """`quorate` or `etcd`; the binary comes from CONFORMANCE_QUORATE or CONFORMANCE_ETCD."""
    if kind == "etcd":
        return Etcd(os.environ.get("CONFORMANCE_ETCD", "etcd"))
    built = Path(__file__).resolve().parents[2] / "target" / "debug" / "quorate"
    return Quorate(os.environ.get("CONFORMANCE_QUORATE", str(built)))


class Cluster:
    """A cluster in a folder of its own. Use as a context manager: leaving it kills all nodes and
    removes the folder, unless something failed; then the logs stay for reading."""

    def __init__(self, kind, size=3):
        self.server = server(kind)
        self.folder = Path(tempfile.mkdtemp(prefix="quorate-conformance-"))
        ports = iter(free_ports(3 * size))
        self.nodes = []
        self.made = 0
        for _ in range(size):
            self.nodes.append(self.new_node([next(ports) for _ in range(3)]))
        atexit.register(self.kill_all)

    def __enter__(self):
        # A suite ended from outside (a time limit) must not leave servers behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.restart(*self.nodes)
        return self

    def __exit__(self, kind, error, trace):
        self.kill_all()
        if error is None:
            shutil.rmtree(self.folder)
        else:
            print(f"the nodes' logs: {self.folder}/n*/log", file=sys.stderr)

    def new_node(self, ports=None, joins=False):
        """A place for another node: a folder, a name and ports that nobody has had."""
        self.made += 1
        folder = self.folder / f"n{self.made}"
        folder.mkdir()
        addresses = [f"127.0.0.1:{port}" for port in ports or free_ports(3)]
        return Node(f"n{self.made}", folder, *addresses, joins=joins)

    def stop(self, node):
        """SIGTERM: it hands over what it leads and answers what is under way."""
        node.process.terminate()
        node.process.wait(timeout=HANG_S)

    @property
    def endpoints(self):
        return [node.etcd for node in self.nodes]

    def start(self, node):
        """Starts a node (again) and does not wait. Its output is added to its log."""
        with node.log.open("ab") as log:
            # `setpriv` makes it die with this process, however that ends. A `preexec_fn` would do
            # so too, but Python then forks, and the fork handlers of gRPC's library, which the
            # clients under test bring along, abort the child now and then (1 start in 200).
            node.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.server.command(node, self.nodes)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def restart(self, *nodes):
        """Starts nodes and waits until each serves again, so that what a client sees afterwards
        is not the sight of a process that has not opened its port yet."""
        for node in nodes:
            self.start(node)
        for node in nodes:
            wait_until(f"{node.name} to serve", lambda node=node: self.serves(node))

    def serves(self, node):
        """Whether a node is ready; raises if it has ended by itself."""
        if not node.alive:
            tail = node.log.read_text(errors="replace")[-2000:]
            raise Hung(f"{node.name} ended by itself, status {node.process.returncode}:\n{tail}")
        return self.server.ready(node)

    def kill(self, node):
        """SIGKILL: no handler runs, nothing is flushed, no good-bye is said."""
        node.process.kill()
        node.process.wait()

    def pause(self, node):
        """SIGSTOP: it holds its connections and says nothing, as a suspended machine does."""
        node.process.send_signal(signal.SIGSTOP)

    def resume(self, node):
        node.process.send_signal(signal.SIGCONT)

    def kill_all(self):
        for node in self.nodes:
            if node.alive:
                self.kill(node)

    def leader(self):
        """The node that leads in the highest term, waiting for one if there is none."""

        def probe():
            terms = [(self.server.leads(node), node) for node in self.nodes if node.alive]
            leading = [(term, node) for term, node in terms if term is not None]
            return max(leading, key=lambda pair: pair[0])[1] if leading else None

        return wait_until("a leader", probe)

    def kill_leader(self):
        """Kills whoever leads now and returns that node; the others are left to notice."""
        node = self.leader()
        self.kill(node)
        return node
