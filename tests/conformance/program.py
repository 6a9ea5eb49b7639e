"""A program in another language that holds a suite's cases, beside the cluster that it is about.

The program owns the cases, this side the processes. The program asks for what it needs done to the
cluster by lines that begin with `!`, and waits for a line in return:

    !kill-leader     kills the leader; answers with its etcd endpoint
    !start-killed    starts it again; answers when it serves
    !pause-leader    stops the leader without ending it (SIGSTOP); answers with its etcd endpoint
    !resume          lets it go on
    !forget-peaks    from now on, the most memory that a node has used is looked for
    !peak            answers with the most that a node has grown since then, in KiB
"""

import argparse
import subprocess
from pathlib import Path

from cluster import Cluster


def memory(node, field):
    """What the system says of a process's memory, in KiB."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1])


def obey(cluster, request, away):
    """Does what the program asked for, and returns the answer."""
    if request == "!kill-leader":
        away.append(cluster.kill_leader())
        return away[-1].etcd
    if request == "!start-killed":
        cluster.restart(away.pop())
        return "done"
    if request == "!pause-leader":
        away.append(cluster.leader())
        cluster.pause(away[-1])
        return away[-1].etcd
    if request == "!resume":
        cluster.resume(away.pop())
        return "done"
    if request == "!forget-peaks":
        for node in cluster.nodes:
            # Resets the peak to what is used now.
            Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")
            node.used = memory(node, "VmRSS")
        return "done"
    if request == "!peak":
        return str(max(memory(node, "VmHWM") - node.used for node in cluster.nodes))
    raise ValueError(f"the program asked for {request!r}")


def drive(cluster, command, **options):
    """Runs the program on the cluster and does what it asks for; returns its exit status."""
    program = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, **options)
    away = []
    try:
        for line in program.stdout:
            if line.startswith("!"):
                program.stdin.write(obey(cluster, line.strip(), away) + "\n")
                program.stdin.flush()
            else:
                print(line, end="", flush=True)
        return program.wait()
    finally:
        program.kill()


def options(description):
    """The command line that every suite has."""
    arguments = argparse.ArgumentParser(description=description.splitlines()[0])
    arguments.add_argument("--server", choices=["quorate", "etcd"], default="quorate")
    return arguments.parse_args()


def run(description, command, **settings):
    """The whole of a suite: a cluster, the program with its endpoints, and its exit status."""
    server = options(description).server
    with Cluster(server) as cluster:
        if drive(cluster, [*command, *cluster.endpoints], **settings) != 0:
            raise SystemExit(1)  # inside: the cluster keeps its logs when it sees an error
