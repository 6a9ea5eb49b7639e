"""etcd's own Go client, 3.7, against a three-node cluster: ranges that are streamed, and the recipes
of its package `concurrency` through the loss of the leader.

The cases are Go programs (go/ranges, go/concurrency); program.py does what they ask for.
"""

from pathlib import Path

from go_programs import built
from program import run

if __name__ == "__main__":
    with built("ranges", "concurrency") as programs:
        for name in ["ranges", "concurrency"]:
            run(__doc__, [Path(programs) / name])
