"""The cluster that rsf starts for itself: who may join it, and where it listens."""

import ipaddress
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

pytestmark = pytest.mark.ray

OWN = """
import json, os, subprocess, sys, time, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
import psutil, ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from rsf_dist.cluster.connection import connect

def listening():
    found = []
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            line = [os.path.basename(word) for word in process.cmdline()]
            title = "driver" if process == me else next((word for word in line if word.endswith(".py")), line[0])
            sockets = process.net_connections(kind="inet")
        except (psutil.Error, IndexError):  # it ended meanwhile
            continue
        found += [(title, *one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN]
    return found

def answer(ip, port):
    # To somebody without the token who asks over HTTP: status and first letters; 0 where it speaks gRPC alone.
    host = "127.0.0.1" if ip in ("::", "0.0.0.0") else f"[{ip}]" if ":" in ip else ip
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/api/version", timeout=20) as told:
            return told.status, told.read(7).decode(errors="replace")
    except urllib.error.HTTPError as err:
        return err.code, ""
    except Exception as err:
        return 0, ""

def joined(mode):
    return subprocess.run(
        [sys.executable, "-c", "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)", address],
        env={**os.environ, "RAY_AUTH_MODE": mode, "RAY_NUM_REDIS_GET_RETRIES": "5"},  # one a second
        capture_output=True, timeout=100,
    ).returncode == 0

with connect():
    print("token:", is_token_auth_enabled())
    address = ray.get_runtime_context().gcs_address
    end = time.monotonic() + 60
    while len({title for title, *_ in listening() if title.endswith("Agent")}) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    sockets, modes = listening(), ("token", "disabled")
    with ThreadPoolExecutor() as threads:  # some sockets answer nothing, and who may not join tries for a while
        joins = threads.map(joined, modes)
        answers = threads.map(lambda one: answer(*one[1:]), sockets)
        print("sockets:", json.dumps([[*one, *said] for one, said in zip(sockets, answers)]))
        for mode, done in zip(modes, joins):
            print(mode, "joined:", done)
"""

BEYOND_LOOPBACK = ("driver", "gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE")
"""Whose sockets may be reached from elsewhere: those that Ray's nodes speak to each other through. Ray binds them to
all interfaces, or to the node's own, whatever it is told; but whoever speaks to them needs the cluster's token. Not
among them: the dashboard, which runs what it is sent, and Ray Client's server, which is a driver for whoever joins."""


@dataclass(frozen=True)
class Socket:
    """One that listens.

    Args:
        title: of its process.
        ip, port: where.
        status, begins: what it answers to HTTP without a token; 0 where it speaks gRPC alone.
    """

    title: str
    ip: str
    port: int
    status: int
    begins: str

    @property
    def on_loopback(self) -> bool:
        return ipaddress.ip_address(self.ip).is_loopback

    @property
    def counts(self) -> bool:
        """Return whether the port answers any request with Prometheus text: nothing can be sent to it."""
        return self.status == 200 and self.begins == "# HELP "


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    folder = tmp_path_factory.mktemp("own")
    done = subprocess.run(
        [sys.executable, "-c", OWN], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def sockets(said: list[str]) -> list[Socket]:
    (line,) = (line for line in said if line.startswith("sockets:"))
    return [Socket(*one) for one in json.loads(line.partition(":")[2])]


def test_nobody_joins_it_without_its_token(said: list[str]) -> None:
    assert [line for line in said if "joined" in line or "token:" in line] == [
        "token: True",
        "token joined: True",
        "disabled joined: False",
    ]


def test_what_would_run_what_it_is_sent_listens_on_loopback_or_not_at_all(sockets: list[Socket]) -> None:
    seen = {one.title for one in sockets}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= seen  # we looked at the cluster
    beyond = [one for one in sockets if not (one.on_loopback or one.counts)]
    assert [one for one in beyond if one.title not in BEYOND_LOOPBACK] == []


def test_what_else_speaks_http_asks_for_the_token(sockets: list[Socket]) -> None:
    """But for counters, which anyone may read."""
    http = [one for one in sockets if one.status and not one.on_loopback]
    assert "ray::RuntimeEnvAgent" in {one.title for one in http}
    open_ones = [one for one in http if one.status not in (401, 403)]
    assert [one for one in open_ones if not one.counts] == []
