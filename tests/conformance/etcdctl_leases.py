"""etcdctl's lease commands, and leases that outlive their leader."""

import re

from cases import case
from cluster import wait_until
from etcdctl import Refused, etcdctl, etcdctl_json, put


def grant(cluster, ttl_s, **options):
    """A new lease, as etcdctl names it (hexadecimal), and the seconds it was granted."""
    printed = etcdctl(cluster, "lease", "grant", str(ttl_s), **options)
    found = re.fullmatch(r"lease ([0-9a-f]+) granted with TTL\((\d+)s\)\n", printed)
    assert found, printed
    return found[1], int(found[2])


def time_to_live(cluster, lease, **options):
    """The seconds granted and left, and the keys; None for a lease that does not exist."""
    printed = etcdctl(cluster, "lease", "timetolive", lease, "--keys", **options)
    if printed == f"lease {lease} already expired\n":
        return None
    pattern = rf"lease {lease} granted with TTL\((\d+)s\), remaining\((\d+)s\), " \
              r"attached keys\(\[(.*)\]\)\n"
    found = re.fullmatch(pattern, printed)
    assert found, printed
    return int(found[1]), int(found[2]), found[3].split()


def leases(cluster, **options):
    printed = etcdctl(cluster, "lease", "list", **options)
    count, *lines = printed.split("\n")
    found = re.fullmatch(r"found (\d+) leases", count)
    assert found and int(found[1]) == len(lines) - 1, printed
    return lines[:-1]


def refused(text, cluster, *arguments):
    try:
        printed = etcdctl(cluster, *arguments)
    except Refused as error:
        assert text in str(error), f"expected {text!r} in {error}"
        return
    raise AssertionError(f"expected {text!r}, got {printed!r}")


@case
def a_lease_takes_its_keys_along(cluster):
    first, second, third = [[node.etcd] for node in cluster.nodes]
    lease, ttl = grant(cluster, 100, endpoints=first)
    assert ttl == 100
    for key in ["lease/c", "lease/a", "lease/b"]:
        assert etcdctl(cluster, "put", key, "x", "--lease", lease, endpoints=second) == "OK\n"
    put(cluster, "lease/b", "detached")
    granted, left, keys = time_to_live(cluster, lease, endpoints=third)
    assert granted == 100 and 0 < left <= 100
    assert sorted(keys) == ["lease/a", "lease/c"]
    assert lease in leases(cluster, endpoints=second)
    before = etcdctl_json(cluster, "get", "lease/a")["header"]["revision"]
    printed = etcdctl(cluster, "lease", "revoke", lease, endpoints=third)
    assert printed == f"lease {lease} revoked\n"
    answer = etcdctl_json(cluster, "get", "lease/", "--prefix", "--keys-only")
    assert answer["count"] == 1, "all but the key that was detached"
    assert answer["header"]["revision"] == before + 1, "two keys, one revision"
    assert time_to_live(cluster, lease) is None
    assert lease not in leases(cluster)
    refused("requested lease not found", cluster, "lease", "revoke", lease)
    refused("requested lease not found", cluster, "put", "lease/d", "x", "--lease", lease)


@case
def a_lease_is_kept_alive_and_ends_by_itself(cluster):
    lease, ttl = grant(cluster, 2)
    assert ttl >= 2
    etcdctl(cluster, "put", "lease/short", "x", "--lease", lease)
    for node in cluster.nodes:
        printed = etcdctl(cluster, "lease", "keep-alive", "--once", lease, endpoints=[node.etcd])
        assert printed == f"lease {lease} keepalived with TTL({ttl})\n"
        assert etcdctl(cluster, "get", "lease/short") == "lease/short\nx\n"
    for node in cluster.nodes:
        wait_until("the key to go", lambda node=node: etcdctl(
            cluster, "get", "lease/short", endpoints=[node.etcd]) == "")
    wait_until("the lease to go", lambda: lease not in leases(cluster))
    assert time_to_live(cluster, lease) is None


@case
def grants_have_a_floor_and_a_ceiling(cluster):
    lease, ttl = grant(cluster, 1)
    assert ttl >= 2
    etcdctl(cluster, "lease", "revoke", lease)
    refused("too large lease TTL", cluster, "lease", "grant", "9000000001")
    lease, ttl = grant(cluster, 9000000000)
    assert ttl == 9000000000
    etcdctl(cluster, "lease", "revoke", lease)


@case
def a_transaction_needs_the_leases_of_the_branch_taken(cluster):
    lease, _ = grant(cluster, 60)
    program = f'version("lease/txn") = "0"\n\nput lease/txn x --lease={lease}\n\n' \
              "put lease/txn x --lease=1234\n\n"
    assert etcdctl(cluster, "txn", stdin=program) == "SUCCESS\n\nOK\n"
    refused_program = 'version("lease/txn") = "1"\n\nput lease/txn x --lease=1234\n\n\n'
    try:
        printed = etcdctl(cluster, "txn", stdin=refused_program)
    except Refused as error:
        assert "requested lease not found" in str(error), error
    else:
        raise AssertionError(printed)
    assert time_to_live(cluster, lease)[2] == ["lease/txn"]
    etcdctl(cluster, "lease", "revoke", lease)


@case
def leases_outlive_their_leader_and_end_under_the_next(cluster):
    kept, _ = grant(cluster, 600)
    short, _ = grant(cluster, 3)
    etcdctl(cluster, "put", "lease/kept", "x", "--lease", kept)
    etcdctl(cluster, "put", "lease/brief", "x", "--lease", short)
    killed = cluster.kill_leader()
    alive = [node.etcd for node in cluster.nodes if node.alive]
    granted, left, keys = time_to_live(cluster, kept, endpoints=alive)
    assert granted == 600 and 500 < left <= 600 and keys == ["lease/kept"]
    wait_until("the short one to go", lambda: etcdctl(
        cluster, "get", "lease/brief", endpoints=alive) == "")
    assert etcdctl(cluster, "get", "lease/kept", endpoints=alive) == "lease/kept\nx\n"
    cluster.restart(killed)
    assert time_to_live(cluster, kept, endpoints=[killed.etcd])[2] == ["lease/kept"]
    etcdctl(cluster, "lease", "revoke", kept, endpoints=[killed.etcd])
    assert etcdctl(cluster, "get", "lease/kept") == ""
