"""The question whether this process can join a cluster, asked before `ray.init`, which has no timeout of its own.

Ray 2.60 asks an address that is dead for minutes, and a cluster that wants a token for 25 seconds. Afterwards it says
only that it did not connect. It looks a minute for a node of the cluster on this machine. One request of our own, to
the service that `ray.init` asks, tells these cases apart. tests/cluster/test_ray_workarounds.py asserts that Ray still
does so. Upstream: no issue known.
"""

from __future__ import annotations

import os
import socket
import time
from importlib.util import find_spec
from typing import Any

import grpc
import ray
from ray._private import ray_constants, services
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2, ray_client_pb2
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub
from ray.exceptions import AuthenticationError

from rsf_dist.errors import InputError

SECONDS = 10.0
"""Timeout of the whole question."""

_CLIENT = "ray://"
_FORM = "is not of the form HOST:PORT or ray://HOST:PORT"
_OTHER_SERVICE = "another service answers there"


def require_cluster(field: str, address: str) -> None:
    """Raise InputError unless this process can join the cluster at the address, as far as can be told in 10 seconds.

    Args:
        field: the option or variable that the address came from, for the error.
        address: `host:port` of a cluster's head, `ray://host:port` of its Ray Client server, or `auto`. A scheme that
            is the name of a module is left to Ray, which asks the module to connect.
    """
    if address.startswith(("http://", "https://")):
        rule = "is the address of a web page, such as Ray's dashboard, and not of a cluster's head"
        raise InputError(field, address, rule, "give the head as HOST:PORT; its port is 6379 by default")
    scheme, is_url, _ = address.partition("://")
    if is_url and scheme != "ray":
        if not (scheme.isidentifier() and find_spec(scheme)):
            raise InputError(field, address, _FORM, _remedy(field))
        return
    target = _target(field, address)
    try:
        _require_answer(field, address, target)
    except grpc.RpcError as err:
        raise _refusal(field, address, err) from err
    except AuthenticationError as err:
        raise no_token(field, address, err) from err


def require_loopback() -> None:
    """Raise InputError unless this machine reaches itself; without that, Ray's processes wait for each other."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=SECONDS),
        ):
            pass
    except OSError as err:
        rule = f"this machine does not reach itself ({err}), and Ray's processes speak to each other over the network"
        raise InputError("loopback", "127.0.0.1", rule, "bring its loopback interface up: ip link set lo up") from err


def _target(field: str, address: str) -> str:
    """Return the `host:port` that Ray would connect to."""
    if address.startswith(_CLIENT):
        return address.removeprefix(_CLIENT)
    try:
        return services.canonicalize_bootstrap_address(address)
    except ConnectionError as err:  # `auto` without a cluster
        rule = "no Ray cluster runs on this machine"
        raise InputError(field, address, rule, _remedy(field)) from err
    except ValueError as err:
        raise InputError(field, address, _FORM, _remedy(field)) from err


def _require_answer(field: str, address: str, target: str) -> None:
    """Raise grpc.RpcError unless the service answers, and InputError if none of the nodes is on this machine."""
    end = time.monotonic() + SECONDS
    with init_grpc_channel(target, options=ray_constants.GLOBAL_GRPC_OPTIONS) as channel:
        if address.startswith(_CLIENT):
            ping = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
            RayletDriverStub(channel).ClusterInfo(ping, timeout=SECONDS)
            return
        alive = gcs_service_pb2.GetAllNodeInfoRequest(state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
        while True:
            timeout = max(1.0, end - time.monotonic())
            reply = NodeInfoGcsServiceStub(channel).GetAllNodeInfo(alive, timeout=timeout, metadata=_token(address))
            if services.find_node_ids() & {node.node_id.hex() for node in reply.node_info_list}:
                return
            if time.monotonic() > end:  # a node that is being started is not in the list yet
                break
            time.sleep(0.5)
    rule = f"the cluster answers, but none of its {len(reply.node_info_list)} node(s) runs on this machine"
    raise InputError(field, address, rule, f"run it on a node, or start one here: ray start --address={target}")


def _token(address: str) -> list[tuple[str, str]]:
    """Return the token as Ray would send it to a cluster that it finds itself.

    Ray sends a token to an address only where RAY_AUTH_MODE=token, since whoever listens there could use it. The
    channel adds the token then. To the cluster on this machine, `auto`, Ray sends it unless RAY_AUTH_MODE is set.
    """
    loader = _token_loader()
    if address != "auto" or "RAY_AUTH_MODE" in os.environ or not loader.has_token(ignore_auth_mode=True):
        return []
    return [("authorization", f"Bearer {loader.get_raw_token(ignore_auth_mode=True)}")]


def _refusal(field: str, address: str, err: Any) -> InputError:
    """Return the error for an answer other than the cluster's nodes."""
    code, details = err.code(), err.details() or ""
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return _wrong_token(field, address)
    if code == grpc.StatusCode.UNIMPLEMENTED:
        remedy = "give the head as HOST:PORT, by default port 6379; Ray Client's server is ray://HOST:PORT, port 10001"
        return InputError(field, address, _OTHER_SERVICE, remedy)
    why = (
        "no answer"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED
        else details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    )
    return InputError(field, address, f"no Ray cluster answers there ({why})", _remedy(field))


def no_token(field: str, value: str, err: AuthenticationError) -> InputError:
    """Return the error for a token that is asked for by RAY_AUTH_MODE=token, and that Ray does not find."""
    return InputError(field, value, err.message.partition(". ")[0], _put_token())


def _put_token() -> str:
    return f"put the cluster's token into {_token_place()} (on its head: ray get-auth-token)"


def _wrong_token(field: str, address: str) -> InputError:
    place, there = _token_place(), _put_token()
    try:
        has_token = _token_loader().has_token(ignore_auth_mode=True)
    except AuthenticationError:  # RAY_AUTH_TOKEN_PATH names no file
        has_token = False
    if is_token_auth_enabled() or _token(address):
        rule = f"the cluster takes another token than that in {place}" if has_token else "the cluster asks for a token"
        return InputError(field, address, rule, there)
    rule = "the cluster asks for a token, which Ray sends only with RAY_AUTH_MODE=token"
    remedy = f"export RAY_AUTH_MODE=token; Ray takes the token from {place}"
    return InputError(field, address, rule, remedy if has_token else f"export RAY_AUTH_MODE=token, and {there}")


def _token_loader() -> Any:
    """Return Ray's own reader of the token, from wherever the environment says."""
    return ray._raylet.AuthenticationTokenLoader.instance()


def _token_place() -> str:
    """Return where Ray looks for the token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the variable RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"


def _remedy(field: str) -> str:
    without = "unset it" if field == "RAY_ADDRESS" else "leave it out"
    return f"correct it, start a cluster (ray start --head), or {without}: rsf_dist then starts one of its own"
