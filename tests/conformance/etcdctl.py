"""etcdctl as a function: what the suite and the soak share."""

import base64
import json
import os
import subprocess
import threading

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


class Watching:
    """`etcdctl watch` while it runs, and what it has printed. It resumes by itself on another
    endpoint when the one it uses dies."""

    def __init__(self, cluster, *arguments, endpoints=None):
        command = [
            ETCDCTL,
            "--endpoints", ",".join(endpoints or cluster.endpoints),
            "--dial-timeout", "2s",
            "--write-out", "json",
            "watch", *arguments,
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        self.responses = []
        self.other_lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self.responses.append(json.loads(line))
            except ValueError:
                self.other_lines.append(line)

    def say(self, line):
        """For `etcdctl watch -i`: a line of its input."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def events(self):
        """(kind, key, value, revision, previous value) of every event, in order."""
        def text(pair, name):
            return base64.b64decode((pair or {}).get(name, "")).decode()

        return [
            (
                "DELETE" if event.get("type") == 1 else "PUT",
                text(event["kv"], "key"),
                text(event["kv"], "value"),
                event["kv"]["mod_revision"],
                text(event.get("prev_kv"), "value"),
            )
            for response in list(self.responses)
            for event in response.get("Events") or []
        ]

    def end(self):
        self.process.kill()
        self.process.wait()
