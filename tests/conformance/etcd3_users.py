"""Users through the Python client: it signs in once and never again, so its token has to be good for
as long as it is used, whatever happens to users, roles and leaders meanwhile."""

from contextlib import contextmanager

import etcd3
import grpc
from cases import Book, case
from cluster import wait_until

FAILURES = (etcd3.exceptions.Etcd3Exception, grpc.RpcError)


def client(node, **credentials):
    host, port = node.etcd.rsplit(":", 1)
    made = etcd3.client(host=host, port=int(port), timeout=10, **credentials)
    # It sends the token twice: in its metadata, and as credentials of the call, which the gRPC
    # library lets pass over TLS only.
    made.call_credentials = made.watcher._credentials = None
    return made


def refusal(call):
    """The gRPC status that a call ends in."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    except etcd3.exceptions.Etcd3Exception as error:
        return error.__context__.code(), error.__context__.details()
    raise AssertionError("the call was expected to fail")


class Admin:
    """What the client has no calls for: its own stubs' Auth service."""

    def __init__(self, node, token=None):
        self.client = client(node)
        self.stub = etcd3.etcdrpc.AuthStub(self.client.channel)
        self.metadata = (("token", token),) if token else ()

    def __getattr__(self, name):
        rpc = etcd3.etcdrpc
        request = {
            "UserAdd": rpc.AuthUserAddRequest,
            "UserDelete": rpc.AuthUserDeleteRequest,
            "UserGrantRole": rpc.AuthUserGrantRoleRequest,
            "UserChangePassword": rpc.AuthUserChangePasswordRequest,
            "RoleAdd": rpc.AuthRoleAddRequest,
            "RoleDelete": rpc.AuthRoleDeleteRequest,
            "AuthEnable": rpc.AuthEnableRequest,
            "AuthDisable": rpc.AuthDisableRequest,
            "Authenticate": rpc.AuthenticateRequest,
        }[name]
        call = getattr(self.stub, name)
        return lambda **fields: call(request(**fields), timeout=10, metadata=self.metadata)

    def grant(self, role, key, range_end=b""):
        rpc = etcd3.etcdrpc
        request = rpc.AuthRoleGrantPermissionRequest(name=role)
        request.perm.permType = 2
        request.perm.key, request.perm.range_end = key, range_end
        self.stub.RoleGrantPermission(request, timeout=10, metadata=self.metadata)


def settled(call):
    """Calls until a node that lags knows of the newest change of users and roles, and somebody
    leads."""
    def probe():
        try:
            return [call()]
        except FAILURES as error:
            error = error if isinstance(error, grpc.RpcError) else error.__context__
            late = ["revision of auth store is old", "invalid auth token", "user name is empty",
                    "authentication is not enabled", "authentication failed", "leader", "timed out",
                    "Deadline"]
            if not any(text in error.details() for text in late) and not (
                error.code() == grpc.StatusCode.UNAVAILABLE
            ):
                raise
            return None
    return wait_until("a change of users to be settled", probe)[0]


@contextmanager
def authentication(cluster):
    """Root and `ann`, who may read and write what begins with `a/`; gives root."""
    first = cluster.nodes[0]
    nobody = Admin(first)
    for name in ["root", "ann"]:
        nobody.UserAdd(name=name, password=f"{name}pw")
        nobody.RoleAdd(name=name)
        nobody.UserGrantRole(user=name, role=name)
    nobody.grant("ann", b"a/", b"a0")
    nobody.AuthEnable()
    token = settled(lambda: nobody.Authenticate(name="root", password="rootpw")).token
    try:
        yield Admin(first, token)
    finally:
        token = settled(lambda: nobody.Authenticate(name="root", password="rootpw")).token
        Admin(first, token).AuthDisable()
        for node in cluster.nodes:
            settled(lambda node=node: client(node).get("settled"))
        for name in ["root", "ann"]:
            nobody.UserDelete(name=name)
            nobody.RoleDelete(role=name)


def sign_in(node):
    return settled(lambda: client(node, user="ann", password="annpw"))


@case
def a_user_who_has_signed_in_reads_and_writes_his_own(cluster):
    with authentication(cluster):
        code, text = refusal(lambda: client(cluster.nodes[0]).put("a/1", "x"))
        assert code == grpc.StatusCode.INVALID_ARGUMENT, code
        assert text == "etcdserver: user name is empty", text
        code, text = refusal(lambda: client(cluster.nodes[0], user="ann", password="no"))
        assert code == grpc.StatusCode.INVALID_ARGUMENT, code
        assert text == "etcdserver: authentication failed, invalid user ID or password", text
        for node in cluster.nodes:
            ann = sign_in(node)
            settled(lambda ann=ann: ann.put("a/1", "x"))
            assert ann.get("a/1")[0] == b"x"
            code, text = refusal(lambda ann=ann: ann.get("b"))
            assert code == grpc.StatusCode.PERMISSION_DENIED, code
            assert text == "etcdserver: permission denied", text
            lease = ann.lease(60)
            ann.put("a/2", "leased", lease)
            lease.revoke()
            assert ann.get("a/2")[0] is None


@case
def a_token_outlives_what_concerns_others_and_ends_with_its_password(cluster):
    with authentication(cluster) as root:
        ann = sign_in(cluster.nodes[0])
        settled(lambda: ann.put("a/1", "x"))
        root.UserAdd(name="other", password="pw")
        root.RoleAdd(name="other")
        root.UserDelete(name="other")
        root.RoleDelete(role="other")
        settled(lambda: ann.put("a/1", "y"))
        root.UserChangePassword(name="ann", password="new")
        code, text = refusal(lambda: ann.put("a/1", "z"))
        assert code == grpc.StatusCode.UNAUTHENTICATED, code
        assert text == "etcdserver: invalid auth token", text


@case
def a_token_outlives_the_leader(cluster):
    with authentication(cluster):
        clients = {node.name: sign_in(node) for node in cluster.nodes}
        book = Book()
        for round_number in range(3):
            dead = cluster.kill_leader()
            for node in cluster.nodes:
                if node is dead:
                    continue
                for number in range(5):
                    key, value = f"a/{round_number}/{node.name}/{number}", str(number)
                    book.attempt(key, value)
                    settled(lambda: clients[node.name].put(key, value))
                    book.acknowledge(key, value)
            cluster.restart(dead)
            # Its memory is gone; what somebody was given before has to be looked at anew.
            clients[dead.name] = sign_in(dead)
        ann = clients[cluster.nodes[0].name]
        found = {
            about.key.decode(): value.decode()
            for value, about in settled(lambda: list(ann.get_prefix("a/")))
        }
        lost = book.lost(found)
        assert not lost, lost
