"""etcdctl's user, role and auth commands, and what users may do then.

Each case turns authentication on and leaves the cluster as it was: without users, and with
authentication off. What etcd guards only since 3.6 (compaction, the keys of somebody else's lease)
is not asked here, as these cases are proved on etcd 3.4."""

from contextlib import contextmanager

from cases import Book, case
from cluster import wait_until
from etcdctl import Refused, Watching, etcdctl, etcdctl_json, put

ROOT = ["--user", "root:rootpw"]


def refusal(cluster, *arguments, **options):
    """What etcdctl says when it is refused."""
    try:
        printed = etcdctl(cluster, *arguments, **options)
    except Refused as refused:
        return str(refused)
    raise AssertionError(f"expected to be refused: {arguments}, got {printed!r}")


def as_user(name):
    return ["--user", f"{name}:{name}pw"]


def settled(cluster, *arguments, **options):
    """Runs etcdctl until a node that lags knows of the newest change of users and roles, and
    somebody leads."""
    def probe():
        try:
            return [etcdctl(cluster, *arguments, **options)]
        except Refused as refused:
            late = ["revision of auth store is old", "invalid auth token", "user name is empty",
                    "authentication is not enabled", "authentication failed",
                    "leader changed", "no leader", "timed out", "deadline exceeded"]
            if not any(text in str(refused) for text in late):
                raise
            return None
    return wait_until(f"{arguments} to be settled", probe)[0]


def add_user(cluster, name, *permissions):
    """A user with a role of the same name, who may do what the permissions say."""
    etcdctl(cluster, *ROOT, "user", "add", f"{name}:{name}pw")
    etcdctl(cluster, *ROOT, "role", "add", name)
    for permission in permissions:
        etcdctl(cluster, *ROOT, "role", "grant-permission", name, *permission)
    etcdctl(cluster, *ROOT, "user", "grant-role", name, name)


@contextmanager
def authentication(cluster):
    """Root signs in from here on; afterwards nobody has to, and nobody is left."""
    etcdctl(cluster, "user", "add", "root:rootpw")
    etcdctl(cluster, "user", "grant-role", "root", "root")
    etcdctl(cluster, "auth", "enable")
    for node in cluster.nodes:
        settled(cluster, *ROOT, "get", "settled", endpoints=[node.etcd])
    try:
        yield
    finally:
        etcdctl(cluster, *ROOT, "auth", "disable")
        for node in cluster.nodes:
            settled(cluster, "get", "settled", endpoints=[node.etcd])
        for user in etcdctl(cluster, "user", "list").split():
            etcdctl(cluster, "user", "delete", user)
        for role in etcdctl(cluster, "role", "list").split():
            etcdctl(cluster, "role", "delete", role)


@case
def authentication_needs_root(cluster):
    # That root needs its role is not seen here: etcdctl grants it by itself.
    assert "etcdserver: root user does not exist" in refusal(cluster, "auth", "enable")
    with authentication(cluster):
        invalid = "etcdserver: invalid auth management"
        assert invalid in refusal(cluster, *ROOT, "user", "delete", "root")
        assert invalid in refusal(cluster, *ROOT, "user", "revoke-role", "root", "root")
        assert "user name is empty" in refusal(cluster, "put", "a", "1")
        assert "user name is empty" in refusal(cluster, "get", "a")
        wrong = "authentication failed, invalid user ID or password"
        assert wrong in refusal(cluster, "--user", "root:no", "get", "a")
        assert wrong in refusal(cluster, "--user", "nobody:rootpw", "get", "a")


@case
def users_and_roles_are_managed(cluster):
    with authentication(cluster):
        def root(*arguments):
            return etcdctl(cluster, *ROOT, *arguments)

        add_user(cluster, "ann", ["read", "a"], ["readwrite", "b/", "--prefix=true"])
        assert root("user", "list").split() == ["ann", "root"]
        assert root("role", "list").split() == ["ann"]
        assert root("user", "get", "ann") == "User: ann\nRoles: ann\n"
        printed = root("role", "get", "ann")
        assert "\ta\n" in printed and "[b/, b0) (prefix b/)" in printed, printed
        for text, arguments in [
            ("user name already exists", ["user", "add", "ann:x"]),
            ("user name not found", ["user", "get", "x"]),
            ("user name not found", ["user", "delete", "x"]),
            ("user name not found", ["user", "grant-role", "x", "ann"]),
            ("role name not found", ["user", "grant-role", "ann", "x"]),
            ("role is not granted to the user", ["user", "revoke-role", "ann", "x"]),
            ("role name already exists", ["role", "add", "ann"]),
            ("role name not found", ["role", "get", "x"]),
            ("role name not found", ["role", "delete", "x"]),
            ("role name not found", ["role", "grant-permission", "x", "read", "a"]),
            ("permission is not granted to the role", ["role", "revoke-permission", "ann", "x"]),
        ]:
            said = refusal(cluster, *ROOT, *arguments)
            assert f"etcdserver: {text}" in said, said
        root("role", "revoke-permission", "ann", "a")
        assert "permission denied" in refusal(cluster, *as_user("ann"), "get", "a")
        # Everybody may look at himself, nobody else but root at others.
        assert etcdctl(cluster, *as_user("ann"), "user", "get", "ann") == "User: ann\nRoles: ann\n"
        for arguments in [["user", "get", "root"], ["user", "list"], ["role", "list"],
                          ["user", "add", "x:y"], ["auth", "disable"]]:
            assert "permission denied" in refusal(cluster, *as_user("ann"), *arguments)
        root("role", "delete", "ann")
        assert root("user", "get", "ann") == "User: ann\nRoles:\n"


@case
def keys_are_guarded_by_permissions(cluster):
    with authentication(cluster):
        add_user(cluster, "bob", ["read", "r"], ["write", "w"], ["readwrite", "b/", "--prefix=true"],
                 ["read", "p", "q"], ["read", "q", "r"])
        etcdctl(cluster, *ROOT, "put", "secret", "1")
        bob = as_user("bob")
        etcdctl(cluster, *bob, "put", "w", "1")
        etcdctl(cluster, *bob, "put", "b/x", "1")
        assert etcdctl(cluster, *bob, "get", "b/", "--prefix") == "b/x\n1\n"
        etcdctl(cluster, *bob, "get", "r")
        etcdctl(cluster, *bob, "get", "p", "r")
        etcdctl(cluster, *bob, "put", "b/x", "2", "--prev-kv")
        etcdctl(cluster, *bob, "del", "b/x", "--prev-kv")
        txn = '\nput b/y 1\nget b/y\n\n\n'
        assert etcdctl(cluster, *bob, "txn", stdin=txn).startswith("SUCCESS")
        for arguments in [
            ["get", "secret"], ["get", "w"], ["get", "p", "s"], ["get", "p", "--from-key"],
            ["get", "", "--prefix"], ["put", "r", "1"], ["put", "w", "1", "--prev-kv"],
            ["del", "r"], ["del", "w", "--prev-kv"], ["del", "b/", "--from-key"],
        ]:
            said = refusal(cluster, *bob, *arguments)
            assert "etcdserver: permission denied" in said, (arguments, said)
        for txn in ['value("secret") = "1"\n\nput w 1\n\n\n', '\nput w 1\n\nput secret 2\n\n']:
            said = refusal(cluster, *bob, "txn", stdin=txn)
            assert "etcdserver: permission denied" in said, (txn, said)
        assert etcdctl(cluster, *ROOT, "get", "secret") == "secret\n1\n"


@case
def watches_and_leases_are_guarded(cluster):
    with authentication(cluster):
        add_user(cluster, "cat", ["readwrite", "c/", "--prefix=true"])
        cat = as_user("cat")
        for key in ["secret", "c/"]:
            watching = Watching(cluster, *([] if key == "c/" else cat), key)
            said = "user name is empty" if key == "c/" else "permission denied"
            # etcd 3.4 says "permission denied" to those who have not signed in as well.
            said = [said, "permission denied"]
            wait_until("the watch to be refused", lambda w=watching: any(
                text in line for text in said for line in list(w.other_lines)))
            watching.end()
        watching = Watching(cluster, *cat, "c/", "--prefix")
        def told(watching=watching):
            etcdctl(cluster, *cat, "put", "c/1", "x")
            return watching.events()
        wait_until("the watch to tell of a put", told)
        watching.end()

        own = etcdctl_json(cluster, *cat, "lease", "grant", "60")["ID"]
        other = etcdctl_json(cluster, *ROOT, "lease", "grant", "60")["ID"]
        etcdctl(cluster, *cat, "put", "c/2", "x", "--lease", f"{own:x}")
        etcdctl(cluster, *ROOT, "put", "secret", "x", "--lease", f"{other:x}")
        denied = "etcdserver: permission denied"
        assert denied in refusal(cluster, *cat, "put", "c/3", "x", "--lease", f"{other:x}")
        assert denied in refusal(cluster, *cat, "lease", "revoke", f"{other:x}")
        etcdctl(cluster, *cat, "lease", "timetolive", f"{own:x}", "--keys")
        etcdctl(cluster, *cat, "lease", "revoke", f"{own:x}")
        etcdctl(cluster, *ROOT, "lease", "revoke", f"{other:x}")


@case
def a_password_that_is_changed_is_another_one(cluster):
    with authentication(cluster):
        add_user(cluster, "dan", ["readwrite", "d"])
        etcdctl(cluster, *as_user("dan"), "put", "d", "1")
        etcdctl(cluster, *ROOT, "user", "passwd", "dan", "--interactive=false", stdin="new")
        assert "authentication failed" in refusal(cluster, *as_user("dan"), "put", "d", "2")
        etcdctl(cluster, "--user", "dan:new", "put", "d", "2")
        etcdctl(cluster, *ROOT, "user", "add", "cert", "--no-password")
        assert "authentication failed" in refusal(cluster, "--user", "cert:x", "get", "d")


@case
def users_outlive_the_leader(cluster):
    with authentication(cluster):
        add_user(cluster, "eve", ["readwrite", "e/", "--prefix=true"])
        book = Book()
        for round_number in range(3):
            dead = cluster.kill_leader()
            alive = [node.etcd for node in cluster.nodes if node is not dead]
            for number in range(5):
                key, value = f"e/{round_number}/{number}", str(number)
                book.attempt(key, value)
                settled(cluster, *as_user("eve"), "put", key, value, endpoints=alive)
                book.acknowledge(key, value)
            assert "permission denied" in refusal(cluster, *as_user("eve"), "get", "x",
                                                  endpoints=alive)
            cluster.restart(dead)
            # What it lacks of users and roles comes with the rest.
            settled(cluster, *as_user("eve"), "get", "e/", "--prefix", endpoints=[dead.etcd])
        printed = settled(cluster, *as_user("eve"), "get", "e/", "--prefix")
        lines = printed.split()
        assert not book.lost(dict(zip(lines[::2], lines[1::2])))
    put(cluster, "free", "again")
