"""A live etcd copied into a cluster of ours by `quorate migrate`, and what is the same afterwards.

The old side is Debian's etcd, or the one named by CONFORMANCE_ETCD; with `--server etcd` it is copied
into another etcd, since both sides are asked by etcd's protocol alone.
"""

import os
import signal
import subprocess
import threading
from pathlib import Path

from cases import case, run
from cluster import HANG_S, Cluster, wait_until
from etcdctl import Refused, etcdctl, etcdctl_json, put

BUILT = Path(__file__).resolve().parents[2] / "target" / "debug"
QUORATE = os.environ.get("CONFORMANCE_QUORATE", str(BUILT / "quorate"))


def migrating(old, new, *flags, **options):
    """`quorate migrate`, started."""
    return subprocess.Popen(
        [QUORATE, "migrate", "--from", "etcd://" + ",".join(old.endpoints),
         "--to", ",".join(new.endpoints), *flags],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def migrate(old, new, *flags):
    """Runs it to its end; what it printed, or the error."""
    process = migrating(old, new, *flags)
    output, errors = process.communicate(timeout=2 * HANG_S)
    if process.returncode != 0:
        raise Refused(errors)
    return output


def refused(what, call):
    try:
        call()
    except Refused as error:
        assert what in str(error), error
        return
    raise AssertionError(f"it was not refused with {what!r}")


def everything(cluster, *flags):
    """Keys with values and leases, in the order of their creation and of their last change."""
    pairs = etcdctl_json(cluster, "get", "", "--prefix", *flags).get("kvs", [])
    by = {pair["key"]: (pair.get("value", ""), pair.get("lease", 0)) for pair in pairs}
    created, changed = ({}, {})
    for pair in pairs:
        created.setdefault(pair["create_revision"], []).append(pair["key"])
        changed.setdefault(pair["mod_revision"], []).append(pair["key"])
    order = lambda groups: [sorted(groups[revision]) for revision in sorted(groups)]
    return by, order(created), [key for group in order(changed) for key in group]


class Writers(threading.Thread):
    """Writes to a cluster until it is told to stop."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.over = threading.Event()
        self.written = 0

    def run(self):
        while not self.over.is_set():
            self.written += 1
            put(self.cluster, f"live/{self.written % 40}", str(self.written))
            if self.written % 7 == 0:
                etcdctl(self.cluster, "del", f"live/{self.written % 11}")


def fill(old):
    """Keys in another order than their names, changed, deleted, in transactions and on leases."""
    for number in (5, 3, 9, 1):
        put(old, f"a/{number}", "first")
    put(old, "a/3", "second")
    etcdctl(old, "del", "a/9")
    for block in range(0, 300, 100):
        puts = "".join(f"put many/{number:03} {number}\n" for number in range(block, block + 100))
        etcdctl(old, "txn", stdin=f"\n{puts}\n\n")
    lease = etcdctl(old, "lease", "grant", "600").split()[1]
    for waiting in ("z", "m", "b"):
        etcdctl(old, "put", "--lease", lease, f"lock/{waiting}", "waits")
    etcdctl(old, "put", "binary", stdin="\x01\x02")
    return lease


@case
def a_standing_etcd_is_copied(old_and_new):
    old, new = old_and_new
    lease = fill(old)
    output = migrate(old, new)
    assert "the same on both sides" in output, output
    assert everything(old) == everything(new)
    left = etcdctl_json(new, "lease", "timetolive", lease, "--keys")
    assert left["granted-ttl"] == 600 and len(left["keys"]) == 3, left


@case
def what_is_not_empty_is_left_alone(old_and_new):
    old, new = old_and_new
    put(new, "mine", "1")
    refused("--overwrite", lambda: migrate(old, new))
    assert everything(new)[0]
    migrate(old, new, "--overwrite")
    assert everything(old) == everything(new)


@case
def users_and_roles_come_along(old_and_new):
    old, new = old_and_new
    etcdctl(old, "role", "add", "reader")
    etcdctl(old, "role", "grant-permission", "reader", "read", "a/", "b")
    etcdctl(old, "role", "grant-permission", "reader", "readwrite", "x")
    etcdctl(old, "user", "add", "ann:secret")
    etcdctl(old, "user", "grant-role", "ann", "reader")
    passwords = old.folder / "passwords"
    passwords.write_text("ann:secret\n")
    migrate(old, new, "--overwrite", "--passwords", str(passwords))
    for what in (["role", "get", "reader"], ["user", "get", "ann"], ["user", "list"]):
        theirs, ours = (etcdctl_json(side, *what) for side in (old, new))
        theirs.pop("header"), ours.pop("header")
        assert theirs == ours, (theirs, ours)


@case
def a_live_etcd_is_followed_until_the_cut(old_and_new):
    old, new = old_and_new
    writers = Writers(old)
    writers.start()
    process = migrating(old, new, "--overwrite", "--follow")
    for line in process.stderr:
        if line.startswith("following"):
            break
    seen = writers.written
    wait_until("more writes", lambda: writers.written > seen + 60)
    lease = etcdctl(old, "lease", "grant", "2").split()[1]
    etcdctl(old, "put", "--lease", lease, "brief", "1")
    wait_until("the short lease to end", lambda: "brief" not in etcdctl(old, "get", "brief"))
    # Told while something still writes: it says so and goes on.
    process.send_signal(signal.SIGUSR1)
    for line in process.stderr:
        if "still writes" in line:
            break
    writers.over.set()
    writers.join()
    output, errors = process.communicate(timeout=2 * HANG_S)
    assert process.returncode == 0, errors
    assert "the same on both sides" in output, output
    theirs, ours = everything(old), everything(new)
    assert theirs[0] == ours[0], "keys, values or leases differ"
    assert theirs[1] == ours[1], "the order of creation differs"
    assert not etcdctl(new, "get", "brief")
    listed = etcdctl_json(new, "lease", "list")["leases"]
    assert len(listed) == 1, listed


@case
def where_users_sign_in_they_sign_in_afterwards(old_and_new):
    old, new = old_and_new
    etcdctl(old, "user", "add", "root:rootpw")
    etcdctl(old, "user", "grant-role", "root", "root")
    etcdctl(old, "auth", "enable")
    refused("user name is empty", lambda: migrate(old, new, "--overwrite"))
    refused("authentication failed",
            lambda: migrate(old, new, "--overwrite", "--from-user", "root:wrong"))
    output = migrate(old, new, "--overwrite", "--from-user", "root:rootpw")
    assert "authentication is on" in output and "to be given a password: ann" in output, output
    refused("user name is empty", lambda: etcdctl(new, "get", "a/3"))
    assert etcdctl(new, "--user", "root:rootpw", "get", "a/3") == "a/3\nsecond\n"
    # Both sides, by somebody who signs in at both.
    users = ["--from-user", "root:rootpw", "--to-user", "root:rootpw"]
    assert "the same on both sides" in migrate(old, new, "--overwrite", *users)
    assert etcdctl(new, "--user", "root:rootpw", "get", "a/3") == "a/3\nsecond\n"


class Both:
    """An etcd of one node, and the cluster under test."""

    def __init__(self, kind):
        self.old = Cluster("etcd", size=1)
        self.new = Cluster(kind)

    def __enter__(self):
        self.old.__enter__()
        self.new.__enter__()
        return self.old, self.new

    def __exit__(self, *error):
        self.old.__exit__(*error)
        self.new.__exit__(*error)


if __name__ == "__main__":
    run("migrate", Both)
