"""etcdctl as a function: what the suite and the soak share."""

import base64
import json
import os
import subprocess

ETCDCTL = os.environ.get("ETCDCTL", "etcdctl")


class Refused(Exception):
    """etcdctl ended with an error, or not at all; the text is what it printed."""


def etcdctl(cluster, *arguments, endpoints=None, stdin="", timeout_s=30):
    """Runs etcdctl against all nodes (or those named) and returns what it printed."""
    command = [
        ETCDCTL,
        "--endpoints", ",".join(endpoints or cluster.endpoints),
        "--dial-timeout", "2s",
        "--command-timeout", f"{timeout_s}s",
        *arguments,
    ]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "ETCDCTL_API": "3"},
            # etcdctl's own limit comes first; this one is for an etcdctl that ignores it.
            timeout=timeout_s + 30,
        )
    except subprocess.TimeoutExpired as hung:
        raise Refused(f"etcdctl did not end: {hung}") from hung
    if done.returncode != 0:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def etcdctl_json(cluster, *arguments, **options):
    return json.loads(etcdctl(cluster, *arguments, "--write-out", "json", **options))


def put(cluster, key, value, **options):
    assert etcdctl(cluster, "put", key, value, **options) == "OK\n"


def read_all(cluster, node):
    """All keys on one node, without asking the others; None while it gives no answer."""
    try:
        answer = etcdctl_json(cluster, "get", "", "--prefix", "--consistency", "s",
                              endpoints=[node.etcd], timeout_s=5)
    except Refused:
        return None
    return {
        base64.b64decode(pair["key"]).decode(): base64.b64decode(pair.get("value", "")).decode()
        for pair in answer.get("kvs", [])
    }
