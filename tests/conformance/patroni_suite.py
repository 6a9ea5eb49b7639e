"""Patroni with two PostgreSQL servers, whose leader key is in the cluster under test.

    psql ──▶ postgres a ◀── patroni a ──┐
                 │ replication          ├──▶ JSON gateway of three nodes
             postgres b ◀── patroni b ──┘

Patroni speaks the JSON gateway: grants and keep-alives of a lease, transactions, watches. A writer
inserts rows wherever the leader is said to be and keeps those that were acknowledged. Then the leader
of the databases dies, the leader of the cluster dies, and the leader of the cluster is stopped
(SIGSTOP). Replication is synchronous: no acknowledged row may be lost. While only the cluster
suffers, the leader of the databases must stay: every demotion without need is minutes of a fleet's
writes.

Patroni comes from PyPI, PostgreSQL from Debian's package `postgresql`. PostgreSQL refuses to run as
root; under root both run as the package's user `postgres`.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cases
from cases import case
from cluster import Cluster, fetch_json, free_ports, wait_until

PACKAGES = ["patroni[etcd3]==4.1.5", "psycopg2-binary==2.9.12"]
# Patroni's own defaults are 30, 10 and 10; shorter, so that a dead leader is replaced sooner.
TTL_S, LOOP_S, RETRY_S = 20, 2, 5
# How long the cluster's leader is away: longer than an election, shorter than the databases' lease.
STOPPED_S = 6


def postgresql():
    """The folder of PostgreSQL's programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"),
                   key=lambda path: int(path.parts[4]))
    assert found, "missing: PostgreSQL (see the head of run)"
    return found[-1].parent


class Database:
    """One PostgreSQL server and the Patroni that governs it."""

    def __init__(self, name, folder, cluster):
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.port, self.api = free_ports(2)
        self.process = None
        settings = {
            "scope": "conformance",
            "name": name,
            "restapi": {"listen": f"127.0.0.1:{self.api}", "connect_address": f"127.0.0.1:{self.api}"},
            "etcd3": {"hosts": cluster.endpoints},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_S, "loop_wait": LOOP_S, "retry_timeout": RETRY_S,
                    "maximum_lag_on_failover": 1048576,
                    "synchronous_mode": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {
                            "fsync": "off",  # no machine is lost here, and the disk is not the matter
                            "max_connections": 50, "shared_buffers": "16MB",
                        },
                    },
                },
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self.folder / "data"),
                "bin_dir": str(postgresql()),
                "pgpass": str(self.folder / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "secret"},
                    "replication": {"username": "replicator", "password": "secret"},
                    "rewind": {"username": "rewinder", "password": "secret"},
                },
                "parameters": {"unix_socket_directories": str(self.folder)},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 md5",
                    "host replication all 127.0.0.1/32 md5",
                ],
            },
        }
        # JSON is YAML.
        (self.folder / "patroni.yml").write_text(json.dumps(settings))

    @property
    def log(self):
        return self.folder / "log"

    def start(self, databases):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*databases.as_user, databases.program("patroni"), str(self.folder / "patroni.yml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True,
            )

    def kill(self):
        """SIGKILL to Patroni and to all processes of its server: as if the machine were lost."""
        pids = [self.process.pid]
        try:
            pids.append(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        except (OSError, ValueError, IndexError):
            pass  # it has not come so far
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def status(self):
        """What Patroni says of its server, or None."""
        return fetch_json(f"http://127.0.0.1:{self.api}/patroni")

    def leads(self):
        status = self.status() or {}
        return status.get("role") in ("primary", "master") and status.get("state") == "running"


class Databases:
    """Two databases and the writer."""

    def __init__(self, cluster):
        self.folder = Path(tempfile.mkdtemp(prefix="quorate-conformance-patroni-"))
        self.folder.chmod(0o755)
        # A Python that the user of the databases may run, wherever the checkout is.
        subprocess.run(["/usr/bin/python3", "-m", "venv", self.folder / "venv"], check=True)
        subprocess.run([self.program("pip"), "install", "--quiet", "--disable-pip-version-check",
                        *PACKAGES], check=True)
        self.as_user = []
        self.both = [Database(name, self.folder, cluster) for name in ["a", "b"]]
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self.as_user = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid),
                            "--clear-groups", "--pdeathsig", "KILL", "--"]
            for each in self.both:
                for path in [each.folder, *each.folder.iterdir()]:
                    os.chown(path, user.pw_uid, user.pw_gid)

    def program(self, name):
        return str(self.folder / "venv" / "bin" / name)

    def sql(self, database, statement, timeout_s=10):
        """Lines that a statement brings, or None if it failed."""
        done = subprocess.run(
            [str(postgresql() / "psql"), "-h", "127.0.0.1", "-p", str(database.port), "-U",
             "postgres", "-d", "postgres", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement],
            env={**os.environ, "PGPASSWORD": "secret", "PGCONNECT_TIMEOUT": "3",
                 "PGOPTIONS": f"-c statement_timeout={timeout_s * 1000}"},
            capture_output=True, text=True,
        )
        return done.stdout.split() if done.returncode == 0 else None

    def leader(self):
        def probe():
            leading = [each for each in self.both if each.leads()]
            return leading[0] if len(leading) == 1 else None
        return wait_until("a leader of the databases", probe, timeout_s=120)

    def replicates(self, leader):
        """Whether the other one follows, and is the one that every commit waits for."""
        return wait_until("a synchronous follower", lambda: self.sql(
            leader, "select 1 from pg_stat_replication where sync_state = 'sync'"), timeout_s=120)

    def end(self):
        for each in self.both:
            if each.process is not None and each.process.poll() is None:
                each.kill()


class Writer:
    """Inserts numbers, one a row, and keeps those that were acknowledged."""

    def __init__(self, databases):
        self.databases = databases
        self.acknowledged = set()
        self.number = 0
        self.goes_on = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while self.goes_on:
            for database in self.databases.both:
                if database.leads():
                    self.number += 1
                    row = self.number
                    statement = f"insert into rows values ({row})"
                    if self.databases.sql(database, statement) is not None:
                        self.acknowledged.add(row)
                    break
            else:
                time.sleep(0.1)

    def writes_again(self):
        """Waits for acknowledged rows that are new."""
        before = len(self.acknowledged)
        wait_until("rows to be written", lambda: len(self.acknowledged) > before + 3, timeout_s=120)


class World(Cluster):
    def __enter__(self):
        super().__enter__()
        self.databases = None
        return self

    def __exit__(self, kind, error, trace):
        if self.databases is not None:
            self.databases.end()
            if error is None:
                shutil.rmtree(self.databases.folder)
            else:
                print(f"the databases' logs: {self.databases.folder}/*/log", file=sys.stderr)
        super().__exit__(kind, error, trace)


def timeline(world, database):
    """PostgreSQL's own count of its leaders."""
    return (database.status() or {}).get("timeline")


def assert_stays(world, leader, count):
    """The same database leads as before, and has never stopped to: a leader that is demoted and
    promoted again begins another timeline."""
    assert world.databases.leader() is leader, f"{leader.name} leads no more"
    assert timeline(world, leader) == count, "the databases had another leader meanwhile"


@case
def two_databases_elect_a_leader(world):
    world.databases = Databases(world)
    first, second = world.databases.both
    first.start(world.databases)
    leader = world.databases.leader()
    second.start(world.databases)
    world.databases.replicates(leader)
    assert world.databases.sql(leader, "create table rows (number int)") is not None
    world.writer = Writer(world.databases)
    world.writer.writes_again()


@case
def the_databases_do_not_notice_that_the_clusters_leader_dies(world):
    leader = world.databases.leader()
    count = timeline(world, leader)
    killed = world.kill_leader()
    world.writer.writes_again()
    time.sleep(STOPPED_S)
    assert_stays(world, leader, count)
    world.restart(killed)
    world.writer.writes_again()
    assert_stays(world, leader, count)


@case
def the_databases_do_not_notice_that_the_clusters_leader_is_stopped(world):
    leader = world.databases.leader()
    count = timeline(world, leader)
    stopped = world.leader()
    world.pause(stopped)
    time.sleep(STOPPED_S)
    world.resume(stopped)
    world.writer.writes_again()
    assert_stays(world, leader, count)


@case
def the_other_database_takes_over_when_the_leader_dies(world):
    leader = world.databases.leader()
    world.databases.replicates(leader)
    leader.kill()
    other = next(each for each in world.databases.both if each is not leader)
    wait_until("the other to lead", other.leads, timeout_s=120)
    # Until there is a second one again, it acknowledges alone.
    world.writer.writes_again()
    leader.start(world.databases)
    world.databases.replicates(other)


@case
def no_acknowledged_row_is_lost(world):
    world.writer.goes_on = False
    world.writer.thread.join(timeout=60)
    leader = world.databases.leader()
    for database in world.databases.both:
        def caught_up(database=database):
            found = world.databases.sql(database, "select number from rows")
            return found and world.writer.acknowledged <= {int(number) for number in found}
        wait_until(f"all {len(world.writer.acknowledged)} rows on {database.name}", caught_up)
    assert len(world.writer.acknowledged) > 15
    assert world.databases.leader() is leader


if __name__ == "__main__":
    cases.run("patroni", World)
