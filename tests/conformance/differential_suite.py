"""The same requests to real etcd and to quorate, answers compared field by field.

The requests are tables (go/differential/table), the program that sends and compares is beside them.
Compared with are etcd 3.7, built from its Go module unless CONFORMANCE_ETCD_3_7 names a binary, and
the older etcd of Debian's package `etcd-server`, if it is there. Each comparison begins with fresh
servers on both sides, so that even revisions must agree. Some tables need servers of their own: three of
them, with tokens that are signed, or one that nothing else is asked of; and of three, two are killed when
the table says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cluster
from cluster import Cluster
from go_programs import GO, build, built

TABLES = GO / "differential" / "table"
# In this order: compaction takes the history away, users lock everybody out.
ALONE = ["keys", "transactions", "leases", "watches", "http", "maintenance", "compaction", "users"]
# Servers, whether tokens are signed by a key of the operator's, and the tables.
KINDS = [
    (1, False, ALONE),
    (1, True, ["tokens"]),
    (1, False, ["unstarted"]),
    (3, False, ["three"]),
    (3, False, ["minority"]),
]


class Quorate(cluster.Quorate):
    def command(self, node, nodes):
        # As in etcd; ours would end an alarm for which there is no reason.
        return [*super().command(node, nodes), "--alarm-ends", "when-disarmed"]


class Compared(Cluster):
    """A cluster of one kind, from one binary."""

    def __init__(self, make, size):
        super().__init__("quorate", size)
        self.server = make


class Signing:
    """Servers that sign their tokens with a key in a file."""

    def __init__(self, make, key):
        self.make, self.key = make, key

    def __getattr__(self, name):
        return getattr(self.make, name)

    def command(self, node, nodes):
        token = f"jwt,sign-method=HS256,priv-key={self.key},ttl=10m"
        return [*self.make.command(node, nodes), "--auth-token", token]


def ordered(servers):
    """The leader first."""
    leader = servers.leader()
    return [leader, *(node for node in servers.nodes if node is not leader)]


def lose_majority(servers, survivor):
    """Kills all servers but one, and waits until that one knows of no leader any more."""
    for node in servers.nodes:
        if node is not survivor:
            servers.kill(node)

    def is_leaderless():
        status = cluster.fetch_json(f"http://{survivor.etcd}/v3/maintenance/status", {})
        return status is not None and int(status.get("leader", 0)) == 0

    cluster.wait_until("the leader to be missed", is_leaderless)


def compare(program, binary, kind, more):
    """Runs tables on a pair of fresh clusters, and returns how many cases passed and failed."""
    size, signing, tables = kind
    makes = [cluster.Etcd(binary), Quorate(cluster.server("quorate").binary)]
    if signing:
        key = Path(program).with_name("token-key")
        key.write_text("a secret of the operator's, and long enough")
        makes = [Signing(make, key) for make in makes]
    with Compared(makes[0], size) as etcd, Compared(makes[1], size) as subject:
        first, second = ordered(etcd), ordered(subject)
        if tables == ["minority"]:
            # One that follows is asked, and is left.
            first, second = first[::-1], second[::-1]
        command = [
            program,
            "-reference", ",".join(node.etcd for node in first),
            "-reference-peers", ",".join(f"{node.peer}/{node.name}" for node in first),
            "-subject", ",".join(node.etcd for node in second),
            "-subject-peers", ",".join(f"{node.peer}/{node.name}" for node in second),
            *more,
            *(str(TABLES / f"{table}.txt") for table in tables),
        ]
        passed, failed = 0, 1
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            for line in process.stdout:
                if line.startswith("!"):
                    passed, failed = (int(number) for number in line[1:].split())
                elif line.startswith("?lose"):
                    lose_majority(etcd, first[0])
                    lose_majority(subject, second[0])
                    print("lost", file=process.stdin, flush=True)
                else:
                    print(line, end="", flush=True)
        for server, asked in [(etcd, first), (subject, second)]:
            for node in asked[:1] if tables == ["minority"] else server.nodes:
                assert node.alive, f"{node.name} has ended: {node.log.read_text()[-2000:]}"
        return passed, failed


def flags(command):
    """The flags that a server's help lists."""
    said = subprocess.run([*command, "--help"], capture_output=True, text=True)
    return set(re.findall(r"^ *(--[a-z0-9-]+)", said.stdout + said.stderr, re.MULTILINE))


def compare_flags(binary):
    """Whether each flag of etcd's is one of ours; how many cases passed and failed."""
    missing = flags([binary]) - flags([cluster.server("quorate").binary, "etcd"])
    if missing:
        print("FAILED flags: not known: " + " ".join(sorted(missing)))
        return 0, 1
    print("passed flags: each one of etcd's is known")
    return 1, 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # Every suite is asked which server it is to drive; this one drives both.
    arguments.add_argument("--server", choices=["quorate", "etcd"], default="quorate")
    arguments.add_argument("--only", default="", help="the cases whose name contains this")
    arguments.add_argument("--verbose", action="store_true", help="print every answer")
    arguments.add_argument("--etcd", help="compare with this binary alone")
    arguments.add_argument("--tables", help="these tables alone, by commas")
    options = arguments.parse_args()
    more = ["-only", options.only, *(["-verbose"] if options.verbose else [])]
    with built("differential") as folder:
        if options.etcd:
            references = [options.etcd]
        else:
            newest = os.environ.get("CONFORMANCE_ETCD_3_7") or build("etcd", folder)
            references = [str(newest)]
            if shutil.which("etcd"):
                references.append("etcd")
        passed = failed = 0
        for binary in references:
            version = subprocess.run([binary, "--version"], capture_output=True, text=True)
            print(f"--- compared with {version.stdout.splitlines()[0]}")
            if "3.7" in version.stdout and not (options.tables or options.only):
                good, bad = compare_flags(binary)
                passed, failed = passed + good, failed + bad
            for *kind, tables in KINDS:
                if options.tables:
                    tables = [name for name in tables if name in options.tables.split(",")]
                if not tables:
                    continue
                program = Path(folder) / "differential"
                good, bad = compare(program, binary, (*kind, tables), more)
                passed, failed = passed + good, failed + bad
    print(f"differential: {passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
