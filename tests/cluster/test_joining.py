"""A cluster that another process started, with a token, as `ray start --head` does by default."""

import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent
JOIN = """
import ray
from rsf_dist.cluster.connection import connect
from rsf_dist.errors import InputError
try:
    with connect():
        print("joined", len(ray.nodes()))
except InputError as err:
    print(err)
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home directory with a token, and a folder for Ray's sockets, whose paths are short."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(secrets.token_hex(16))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"HOME": str(home), "RAY_TMPDIR": str(home)} | more


@pytest.fixture(scope="module")
def head(home: Path) -> Iterator[str]:
    """The address of a cluster whose token lies in the home directory."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"start --head --block --port={port} --node-ip-address=127.0.0.1 --num-cpus=1 --include-dashboard=false"
    process = subprocess.Popen(
        [BIN / "ray", *command.split(), f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = list(itertools.takewhile(lambda line: "Ray runtime started" not in line, process.stdout))
        assert process.poll() is None, said
        yield f"127.0.0.1:{port}"
    finally:
        processes = [*psutil.Process(process.pid).children(recursive=True), process]
        for each in processes:
            each.kill()
        process.wait()


def joined(home: Path, address: str, **more: str) -> str:
    """Return what a process says that joins the cluster of RAY_ADDRESS, by itself and within 30 s."""
    done = subprocess.run(
        [sys.executable, "-c", JOIN],
        env=environment(home, RAY_ADDRESS=address, **more),
        capture_output=True,
        text=True,
        timeout=30,  # ray.init takes 25 s to give up
    )
    assert done.returncode == 0, done.stderr
    assert "InvalidAuthToken" not in done.stderr
    return done.stdout.strip()


def test_a_cluster_with_a_token_is_joined_or_tells_what_it_lacks(home: Path, head: str) -> None:
    assert joined(home, head, RAY_AUTH_MODE="token") == "joined 1"
    without = joined(home, head)
    assert without == (
        f"RAY_ADDRESS={head}: the cluster asks for a token, which Ray sends only with RAY_AUTH_MODE=token; "
        "export RAY_AUTH_MODE=token; Ray takes the token from ~/.ray/auth_token"
    )
    wrong = joined(home, head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 32)
    assert "the cluster takes another token than that in the variable RAY_AUTH_TOKEN" in wrong
