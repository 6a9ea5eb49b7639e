"""What the suites share: a runner for cases, and the book of what was acknowledged.

A case is a function that takes the cluster. It fails by raising; the runner says so and goes on
to the next, so that one difference does not hide another. Every suite ends with one plain line,
`NAME: N passed, N failed`.
"""

import argparse
import sys
import time
import traceback
from collections import Counter

from cluster import Cluster, wait_until

CASES = []


def case(function):
    """Marks a function as a case. Cases run in the order in which they stand in the file."""
    CASES.append(function)
    return function


def run(suite, make=Cluster):
    """Runs all cases on one cluster, which `make` makes; the exit status says whether all passed."""
    arguments = argparse.ArgumentParser(description=f"the {suite} suite")
    arguments.add_argument("--server", choices=["quorate", "etcd"], default="quorate")
    arguments.add_argument("--only", help="run the cases whose name contains this")
    options = arguments.parse_args()
    failed = []
    passed = 0
    try:
        with make(options.server) as cluster:
            for function in CASES:
                if options.only and options.only not in function.__name__:
                    continue
                started = time.monotonic()
                try:
                    function(cluster)
                except Exception:
                    failed.append(function.__name__)
                    print(f"  FAILED {function.__name__}")
                    traceback.print_exc(file=sys.stdout)
                else:
                    passed += 1
                    print(f"  ok     {function.__name__} ({time.monotonic() - started:.1f} s)")
                sys.stdout.flush()
            if failed:
                raise SystemExit(1)  # inside: the cluster keeps its logs when it sees an error
    finally:
        print(f"{suite}: {passed} passed, {len(failed)} failed", flush=True)


class Book:
    """What was written, and what the server said about it.

    A write that was acknowledged must be found. A write that ended in an error or a timeout may
    or may not have happened, and may still happen later: its value is allowed, never required.
    """

    def __init__(self):
        self.acknowledged = {}
        self.uncertain = {}
        # A value that nothing has written before: what an earlier check left does not count.
        self.marker = f"the end {time.monotonic_ns()}"

    def attempt(self, key, value):
        """Call before a write is sent: from now on its outcome is uncertain."""
        self.uncertain.setdefault(key, Counter())[value] += 1

    def acknowledge(self, key, value):
        """Call when the server has said yes."""
        self.acknowledged[key] = value
        self.uncertain[key][value] -= 1  # an equal write may be uncertain still

    def allowed(self, key):
        """Every value that a reader may now find; None stands for no such key."""
        uncertain = +self.uncertain.get(key, Counter())  # those with a positive count
        return {self.acknowledged.get(key), *uncertain}

    def lost(self, found):
        """Every acknowledged write that `found` (key -> value) contradicts, as sentences."""
        return [
            f"{key}: acknowledged {value!r}, found {found.get(key)!r}"
            for key, value in self.acknowledged.items()
            if found.get(key) not in self.allowed(key)
        ]


def assert_on_every_node(cluster, book, write, read_all):
    """Every acknowledged write stands on every node, read there without asking the others.

    `write(key, value)` writes through the cluster; `read_all(node)` returns all keys by a
    serializable read on one node. A node that was dead must first catch up; a last write marks
    the point at which it has: the log has one order, so whoever has the marker has all before.
    """
    write("zz/marker", book.marker)
    for node in cluster.nodes:

        def caught_up(node=node):
            pairs = read_all(node) or {}
            return pairs if pairs.get("zz/marker") == book.marker else None

        found = wait_until(f"{node.name} to catch up", caught_up)
        lost = book.lost(found)
        assert not lost, f"{node.name} lost {len(lost)} writes, e.g. {lost[:3]}"
