"""`etcdctl check perf` of 3.7: a minute of writes at a fixed rate.

What it says about speed depends on the machine, and fails nothing here. What counts: it runs to its
end, its own verdict has all its parts, and it leaves nothing behind.
"""

import cases
from cases import case
from cluster import Cluster
from etcdctl import Refused, etcdctl, etcdctl_json, put


@case
def a_minute_of_writes_runs_to_its_end(cluster):
    try:
        printed = etcdctl(cluster, "check", "perf", "--load", "s", timeout_s=120)
    except Refused as slow:
        printed = str(slow)
    for part in ["Throughput", "lowest request", "Stddev"]:
        assert part in printed, printed[-2000:]
    assert "too many errors" not in printed.lower(), printed[-2000:]


@case
def nothing_is_left_behind(cluster):
    answer = etcdctl_json(cluster, "get", "", "--prefix", "--keys-only")
    assert not answer.get("kvs"), len(answer["kvs"])
    put(cluster, "after", "1")


if __name__ == "__main__":
    cases.run("perf", Cluster)
