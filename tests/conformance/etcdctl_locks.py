"""etcdctl's lock and elect commands. They take part by themselves, with leases, transactions and
watches; clients that let the server do it are in the Rust suite. Both wait in the same lines."""

import signal
import subprocess
import threading
import time

from cases import case
from cluster import wait_until
from etcdctl import ETCDCTL

# Long enough for whoever would wrongly get a lock to get it.
A_WHILE_S = 0.5


class Running:
    """An etcdctl that goes on until it is told to stop, and the lines it has printed."""

    def __init__(self, cluster, *arguments, endpoints=None):
        command = [
            ETCDCTL,
            "--endpoints", ",".join(endpoints or cluster.endpoints),
            "--dial-timeout", "2s",
            *arguments,
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def says(self, what):
        """Waits until a line holds `what`, and returns the line."""
        def found():
            return next((line for line in list(self.lines) if what in line), None)
        return wait_until(f"etcdctl to say {what!r}", found)

    def interrupt(self):
        """As by the keyboard: etcdctl lets go of what it holds."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


@case
def two_locks_of_one_name_take_turns(cluster):
    first, second = [[node.etcd] for node in cluster.nodes[:2]]
    holder = Running(cluster, "lock", "locks/turns", endpoints=first)
    holder.says("locks/turns/")
    waiter = Running(cluster, "lock", "locks/turns", endpoints=second)
    time.sleep(A_WHILE_S)
    assert not waiter.lines, "two hold one lock"
    holder.interrupt()
    waiter.says("locks/turns/")
    waiter.interrupt()


@case
def nothing_runs_under_one_lock_twice_while_the_leader_dies(cluster):
    """Each command reads a number from a file, dawdles, and writes it back greater by one: two at
    a time would lose a step."""
    counter = cluster.folder / "counter"
    counter.write_text("0")
    script = f"n=$(cat {counter}); sleep 0.2; echo $((n+1)) > {counter}; echo stepped"
    commands = [
        Running(cluster, "lock", "--ttl", "60", "locks/counter", "--", "sh", "-c", script)
        for _ in range(12)
    ]
    wait_until("the first step", lambda: counter.read_text().strip() not in ("", "0"))
    killed = cluster.kill_leader()
    for command in commands:
        command.process.wait(timeout=90)
    cluster.restart(killed)
    stepped = sum("stepped" in command.lines for command in commands)
    assert int(counter.read_text()) == stepped, "two ran at a time"
    assert stepped >= 6, [command.lines for command in commands]


@case
def an_election_goes_on_when_the_leader_of_the_cluster_dies(cluster):
    alice = Running(cluster, "elect", "elections/ctl", "alice")
    alice.says("alice")
    listener = Running(cluster, "elect", "--listen", "elections/ctl")
    listener.says("alice")
    bob = Running(cluster, "elect", "elections/ctl", "bob")
    time.sleep(A_WHILE_S)
    assert not bob.lines, "two lead"
    killed = cluster.kill_leader()
    time.sleep(A_WHILE_S)
    assert not bob.lines, "two lead"
    alice.interrupt()
    bob.says("bob")
    listener.says("bob")
    bob.interrupt()
    listener.process.kill()
    cluster.restart(killed)
