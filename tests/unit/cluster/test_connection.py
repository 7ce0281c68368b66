"""Where the address comes from, and what is said when Ray does not start or join; `ray.init` is replaced."""

import shutil
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import AuthenticationError, RaySystemError

from rsf_dist.cluster import connection
from rsf_dist.cluster.connection import connect, ensure_cluster
from rsf_dist.errors import ClusterFailure, InputError


class Ray:
    """What was asked of `ray.init`, and the error that it raises."""

    def __init__(self, error: Exception | None = None):
        self.error, self.addresses, self.left = error, [], 0

    def init(self, address: str, **_: object) -> None:
        self.addresses.append(address)
        if self.error is not None:
            raise self.error

    def shutdown(self) -> None:
        self.left += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Ray:
    fake = Ray()
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fake.init)
    monkeypatch.setattr(ray, "shutdown", fake.shutdown)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"object_store_memory": 200.0 * 2**20})
    monkeypatch.setattr(connection, "require_cluster", lambda field, address: None)
    return fake


@pytest.mark.parametrize(
    ("given", "variable", "asked"),
    [
        (None, None, ("address", "local")),
        ("", "", ("address", "local")),
        ("head:6379", None, ("address", "head:6379")),
        ("head:6379", "other:6379", ("address", "head:6379")),
        (None, "other:6379", ("RAY_ADDRESS", "other:6379")),
        ("auto", "other:6379", ("RAY_ADDRESS", "other:6379")),  # as in Ray
        ("auto", None, ("address", "auto")),
        ("local", "other:6379", ("address", "local")),
    ],
)
def test_the_address_and_its_origin(given, variable, asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert connection._found(given) == asked


def test_what_is_refused_is_not_asked_again_of_ray(fake: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(field: str, address: str) -> None:
        raise InputError(field, address, "no Ray cluster answers there", "correct it")

    monkeypatch.setattr(connection, "require_cluster", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"^RAY_ADDRESS=127\.0\.0\.1:1: "):
        ensure_cluster()
    with pytest.raises(InputError, match=r"^address=127\.0\.0\.1:2: "), connect("127.0.0.1:2"):
        pass
    assert fake.addresses == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Version mismatch: The cluster was started with:\n  Ray: 2.59.0"),
        ConnectionError("Failed"),
        ValueError("Failed"),
        PermissionError(13, "Permission denied", "/tmp/ray/session_1/logs"),
        RaySystemError("Failed"),
    ],
)
def test_a_cluster_that_cannot_be_joined_says_why(fake: Ray, error: Exception) -> None:
    fake.error = error
    with pytest.raises(InputError) as caught, connect("head:6379"):
        pass
    assert caught.value.field == "address"
    assert " ".join(str(error).split())[:40] in str(caught.value)
    assert fake.left == 1


def test_the_reason_is_told_and_not_that_there_was_one(fake: Ray) -> None:
    fake.error = ConnectionError("Failed to connect to Ray cluster at head:6379")
    fake.error.__cause__ = RuntimeError("No node info found")
    with pytest.raises(InputError, match="No node info found"), connect("head:6379"):
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError("AF_UNIX path length cannot exceed 107 bytes: /long"),
        NotADirectoryError(20, "Not a directory", "/etc/passwd/ray"),
        FileNotFoundError(2, "No such file or directory", "/proc/ray"),
        PermissionError(13, "Permission denied", "/tmp/ray"),
    ],
)
@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"TMPDIR": "/some/folder"}, "TMPDIR=/some/folder"),
        ({"TMPDIR": "/some/folder", "RAY_TMPDIR": "/other"}, "RAY_TMPDIR=/other"),
        ({}, "RAY_TMPDIR=(not set, which means /tmp)"),
    ],
)
def test_a_folder_that_is_no_good_is_named(fake: Ray, error, variables, named, monkeypatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fake.error = error
    with pytest.raises(InputError) as caught, connect():
        pass
    assert str(caught.value).startswith(f"{named}: Ray cannot keep its files and sockets below this folder (")
    assert str(error) in str(caught.value)
    assert f"set {named.partition('=')[0]} to another folder, with a short path" in str(caught.value)


@pytest.mark.parametrize("folder", ["", "scratch", "./tmp"])
def test_a_folder_that_is_another_in_each_process_is_refused(fake: Ray, folder: str, monkeypatch) -> None:
    """Ray waits half a minute for its sockets there."""
    monkeypatch.setenv("TMPDIR", folder)
    with pytest.raises(InputError, match=r"^TMPDIR=.*\(it is no absolute path\); set TMPDIR to another"), connect():
        pass
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with connect():
        pass
    assert fake.addresses == ["local"]


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed"), ConnectionError("no"), TimeoutError("late"), Exception("The node timed out")]
)
def test_a_cluster_that_does_not_start_is_a_failure_and_no_wrong_input(fake: Ray, error: Exception) -> None:
    fake.error = error
    with pytest.raises(ClusterFailure, match=f"Ray did not start on this machine: {error}"), connect():
        pass


def test_a_token_that_ray_does_not_find_is_wrong_input(fake: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/absent")
    fake.error = AuthenticationError("RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /absent")
    with (
        pytest.raises(InputError, match=r"cannot be opened or is empty: /absent; put .* token into /absent"),
        connect(),
    ):
        pass


@pytest.mark.parametrize(("free", "warned"), [(64, True), (199, True), (200, False), (4096, False)])
def test_a_small_shared_memory_is_told(fake: Ray, free, warned, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(connection, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * 2**20))
    with connect():
        pass
    told = f"{tmp_path} has {free} MiB free and Ray's object store takes 200 MiB: it lies on disk, which is slow"
    assert [told in line for line in caplog.messages] == ([True] if warned else [])


def test_a_machine_without_shared_memory_is_none_that_has_little(fake: Ray, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(connection, "_SHARED_MEMORY", tmp_path / "absent")
    with connect():
        pass
    assert caplog.messages == []
    assert fake.addresses == ["local"]
