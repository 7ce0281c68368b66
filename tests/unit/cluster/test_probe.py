"""Which cluster may be joined, told by servers that answer as Ray's would; no cluster is started."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from ray.core.generated import gcs_service_pb2, ray_client_pb2
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceServicer, add_NodeInfoGcsServiceServicer_to_server
from ray.core.generated.ray_client_pb2_grpc import RayletDriverServicer, add_RayletDriverServicer_to_server
from ray.exceptions import AuthenticationError

from rsf_dist.cluster import probe
from rsf_dist.cluster.probe import require_cluster
from rsf_dist.errors import InputError

HERE, ELSEWHERE = bytes(28), bytes([1] * 28)
TOKEN = "0123456789abcdef"


class Head(NodeInfoGcsServiceServicer):
    """A head with these nodes, which may ask for a token."""

    def __init__(self, nodes: list[bytes], token: str | None = None):
        self.nodes, self.token = nodes, token

    def GetAllNodeInfo(self, request, context):
        sent = dict(context.invocation_metadata()).get("authorization")
        if self.token is not None and sent != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        reply = gcs_service_pb2.GetAllNodeInfoReply()
        for node in self.nodes:
            reply.node_info_list.add(node_id=node)
        return reply


class ClientServer(RayletDriverServicer):
    def ClusterInfo(self, request, context):
        assert request.type == ray_client_pb2.ClusterInfoType.PING
        return ray_client_pb2.ClusterInfoResponse(json="{}")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(probe.services, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(probe.services, "find_node_ids", lambda: {HERE.hex()})
    monkeypatch.setattr(probe, "SECONDS", 0.5)
    own_token(monkeypatch, None)


def own_token(monkeypatch: pytest.MonkeyPatch, token: str | None, mode: bool = False) -> None:
    """Let Ray find this token of the user's. With `mode`, as if RAY_AUTH_MODE=token, it sends it to any address."""
    loader = SimpleNamespace(
        has_token=lambda ignore_auth_mode=False: token is not None and (mode or ignore_auth_mode),
        get_raw_token=lambda ignore_auth_mode=False: token,
        get_token_for_http_header=lambda: {"authorization": f"Bearer {token}"},
    )
    monkeypatch.setattr(probe, "_token_loader", lambda: loader)
    from ray._private.authentication import authentication_utils, grpc_authentication_client_interceptor

    monkeypatch.setattr(probe, "is_token_auth_enabled", lambda: mode)
    monkeypatch.setattr(authentication_utils, "is_token_auth_enabled", lambda: mode)
    kept = SimpleNamespace(instance=lambda: loader)
    monkeypatch.setattr(grpc_authentication_client_interceptor, "AuthenticationTokenLoader", kept)


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a gRPC server with these services, and return its address."""
    started = []

    def start(head: Head | None = None, client_server: bool = False) -> str:
        server = grpc.server(ThreadPoolExecutor(1))
        if head is not None:
            add_NodeInfoGcsServiceServicer_to_server(head, server)
        if client_server:
            add_RayletDriverServicer_to_server(ClientServer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        started.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in started:
        server.stop(None)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers, as a stopped process does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refused(address: str, field: str = "address") -> InputError:
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        require_cluster(field, address)
    assert time.monotonic() - started < 5
    assert caught.value.field == field
    return caught.value


def test_a_cluster_with_a_node_here_is_taken(serve: Serve) -> None:
    require_cluster("address", serve(Head([ELSEWHERE, HERE])))
    require_cluster("address", f"ray://{serve(client_server=True)}")


def test_a_cluster_without_a_node_here_is_refused(serve: Serve) -> None:
    """`ray.init` looks for a node of it for a minute."""
    error = refused(serve(Head([ELSEWHERE])))
    assert error.rule == "the cluster answers, but none of its 1 node(s) runs on this machine"
    assert "ray start --address=127.0.0.1:" in error.remedy


def test_a_node_that_is_being_started_is_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 30.0)
    head = Head([])
    address = serve(head)
    monkeypatch.setattr(probe.time, "sleep", lambda seconds: head.nodes.append(HERE))
    require_cluster("address", address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("where", ["127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:port", "[::1]:1"])
def test_a_dead_address_is_refused_at_once(scheme: str, where: str) -> None:
    error = refused(scheme + where, "RAY_ADDRESS")
    assert error.rule.startswith("no Ray cluster answers there (")
    assert "unset it" in error.remedy
    assert "leave it out" in refused(scheme + where).remedy


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_swallows_the_question_is_refused(scheme: str, silent: str) -> None:
    assert refused(scheme + silent).rule.startswith("no Ray cluster answers there (")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "6379", ":", ":6379", "no_such_module://127.0.0.1:6379", "://", "a.b://c"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    refused(address)


def test_another_service_is_refused(serve: Serve) -> None:
    """Ray Client's port instead of the head's, and the head's instead of Ray Client's."""
    assert "another service" in refused(serve(client_server=True)).rule
    assert "HOST:PORT" in refused(f"ray://{serve(Head([HERE]))}").remedy


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://ray.example.org"])
def test_the_dashboards_address_is_refused(address: str) -> None:
    assert "dashboard" in refused(address).rule


def test_other_schemes_are_left_to_ray_where_a_module_has_their_name() -> None:
    require_cluster("address", "string://cluster")


def test_auto_without_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(probe.services, "find_gcs_addresses", set)
    assert refused("auto").rule == "no Ray cluster runs on this machine"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")  # of a cluster that is dead
    assert refused("auto").rule.startswith("no Ray cluster answers there (")


def test_a_cluster_that_asks_for_a_token_is_recognised(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    address = serve(Head([HERE], TOKEN))
    error = refused(address)
    assert "asks for a token" in error.rule
    assert error.remedy.startswith("export RAY_AUTH_MODE=token, and put the cluster's token into ")
    own_token(monkeypatch, TOKEN)
    assert refused(address).remedy == "export RAY_AUTH_MODE=token; Ray takes the token from ~/.ray/auth_token"
    own_token(monkeypatch, TOKEN, mode=True)
    require_cluster("address", address)


def test_a_wrong_token_is_recognised(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    address = serve(Head([HERE], TOKEN))
    own_token(monkeypatch, "another", mode=True)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/ray/token")
    assert refused(address).rule == "the cluster takes another token than that in /etc/ray/token"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert refused(address).rule == "the cluster takes another token than that in the variable RAY_AUTH_TOKEN"


@pytest.mark.parametrize("mode", [False, True])
def test_a_token_that_is_not_there_is_told(mode: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's reader raises where it needs a token and finds none, and where RAY_AUTH_TOKEN_PATH names no file."""
    own_token(monkeypatch, None, mode)

    def has_token(ignore_auth_mode: bool = False) -> bool:
        raise AuthenticationError("Ray couldn't find an authentication token. Create a token file at ...")

    monkeypatch.setattr(probe._token_loader(), "has_token", has_token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/ray/token")
    error = refused(serve(Head([HERE], TOKEN)))
    told = "Ray couldn't find an authentication token" if mode else "the cluster asks for a token"
    assert error.rule.startswith(told)
    assert "put the cluster's token into /etc/ray/token (on its head: ray get-auth-token)" in error.remedy


def test_the_token_goes_unasked_to_the_cluster_on_this_machine_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Ray: whoever listens at another address could use it."""
    own_token(monkeypatch, TOKEN)
    address = serve(Head([HERE], TOKEN))
    monkeypatch.setattr(probe.services, "find_gcs_addresses", lambda: {address})
    require_cluster("address", "auto")
    refused(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    refused("auto")


def test_a_machine_without_loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.require_loopback()

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(InputError, match=r"127\.0\.0\.1: this machine does not reach itself .*ip link set lo up"):
        probe.require_loopback()
