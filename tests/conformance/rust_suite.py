"""The Rust crate etcd-client against a three-node cluster.

The cases are a Rust program (rust/); this side owns the processes. The program asks for what it
needs done to the cluster by lines that begin with `!`, and waits for a line in return:

    !kill-leader     kills the leader; answers with its etcd endpoint
    !start-killed    starts it again; answers when it serves
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from cluster import Cluster

RUST = Path(__file__).resolve().parent / "rust"


def obey(cluster, request, killed):
    """Does what the program asked for, and returns the answer."""
    if request == "!kill-leader":
        killed.append(cluster.kill_leader())
        return killed[-1].etcd
    if request == "!start-killed":
        cluster.restart(killed.pop())
        return "done"
    raise ValueError(f"the program asked for {request!r}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--server", choices=["quorate", "etcd"], default="quorate")
    options = arguments.parse_args()
    subprocess.run(["cargo", "build", "--quiet"], cwd=RUST, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", RUST / "target"))
    with Cluster(options.server) as cluster:
        program = subprocess.Popen(
            [target / "debug" / "etcd-client-suite", *cluster.endpoints],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        killed = []
        for line in program.stdout:
            if line.startswith("!"):
                program.stdin.write(obey(cluster, line.strip(), killed) + "\n")
            else:
                print(line, end="", flush=True)
        if program.wait() != 0:
            raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
