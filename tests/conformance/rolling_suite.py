"""Nodes restarted one after the other under a workload that is checked.

Clients read, write and watch, and write down what they are told; `quorate-sim check` judges it:
linearizable, nothing lost, watches complete. They are of two kinds: a program over etcd's own Go
client as it comes (`go/rolling`), and `quorate record`. A node that is told to stop sends its clients
away, hands over what it leads and answers what is under way, so that no call ends in an error; one
that is killed may cost errors, but no promise.

Against etcd only the histories are judged: its clients see errors.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

from cases import case, run
from cluster import HANG_S, wait_until
from go_programs import built

BUILT = Path(__file__).resolve().parents[2] / "target" / "debug"
QUORATE = os.environ.get("CONFORMANCE_QUORATE", str(BUILT / "quorate"))
SIMULATOR = os.environ.get("CONFORMANCE_QUORATE_SIM", str(BUILT / "quorate-sim"))


class Recording:
    """Clients at work while this is entered; their history is judged at the end."""

    def __init__(self, cluster, name, program=None):
        self.cluster = cluster
        self.program = program
        self.file = cluster.folder / f"{name}.jsonl"
        self.told = None

    def command(self):
        endpoints = self.cluster.endpoints
        prefix = f"record/{self.file.stem}/"
        if self.program is not None:
            return [self.program, str(self.file), prefix, *endpoints]
        return [QUORATE, "record", str(self.file), "--endpoints", ",".join(endpoints),
                "--duration", "10m", "--rate", "400", "--prefix", prefix, "--json"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, text=True)
        self.wait_for(200)
        return self

    def lines(self):
        with self.file.open("rb") as file:
            return sum(1 for _ in file)

    def wait_for(self, more):
        """Until so many lines more stand in the history: the clients are at work."""
        goal = (self.lines() if self.file.exists() else 0) + more
        wait_until("the clients to work", lambda: self.file.exists() and self.lines() >= goal)

    def __exit__(self, kind, error, trace):
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=2 * HANG_S)
        if error is None:
            assert self.process.returncode == 0, "the recording failed"
            self.told = json.loads(output)
            print(f"         {self.told}")
            judged = subprocess.run(
                [SIMULATOR, "check", str(self.file)], capture_output=True, text=True)
            assert judged.returncode == 0, judged.stdout + judged.stderr


def of_quorate(cluster):
    return type(cluster.server).__name__ == "Quorate"


def restart_each(cluster, recording):
    for node in cluster.nodes:
        cluster.stop(node)
        assert not of_quorate(cluster) or node.process.returncode == 0, node.process.returncode
        recording.wait_for(400)
        cluster.restart(node)
        recording.wait_for(400)


@case
def each_node_is_told_to_stop_under_etcds_own_client(cluster):
    with built("rolling") as programs:
        with Recording(cluster, "go", Path(programs) / "rolling") as recording:
            restart_each(cluster, recording)
            # Once more, by which everybody has been somewhere else before.
            restart_each(cluster, recording)
    errors = recording.told["errors"]
    assert not of_quorate(cluster) or not errors, f"clients saw errors: {errors}"


@case
def each_node_is_told_to_stop_and_started_again(cluster):
    with Recording(cluster, "told") as recording:
        restart_each(cluster, recording)
    if of_quorate(cluster):
        told = recording.told
        assert told["refused"] == told["unknown"] == 0, f"clients saw errors: {told}"


@case
def each_node_is_killed_and_started_again(cluster):
    with Recording(cluster, "killed") as recording:
        for node in cluster.nodes:
            cluster.kill(node)
            recording.wait_for(400)
            cluster.restart(node)
            recording.wait_for(400)


@case
def the_leader_is_killed_each_time(cluster):
    with Recording(cluster, "leaders") as recording:
        for _ in range(3):
            killed = cluster.kill_leader()
            recording.wait_for(400)
            cluster.restart(killed)
            recording.wait_for(200)


if __name__ == "__main__":
    run("rolling")
