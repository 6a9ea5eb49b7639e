"""etcd's own Go client, 3.7, against a three-node cluster: ranges that are streamed.

The cases are a Go program (go/); this side owns the processes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster import Cluster

GO = Path(__file__).resolve().parent / "go"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--server", choices=["quorate", "etcd"], default="quorate")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "go-suite"
        subprocess.run(["go", "build", "-o", program, "."], cwd=GO, check=True)
        with Cluster(options.server) as cluster:
            return subprocess.run([program, *cluster.endpoints]).returncode


if __name__ == "__main__":
    sys.exit(main())
