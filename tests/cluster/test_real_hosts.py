"""A head and two workers with a network of their own each, as on three machines; one worker's cable is pulled.

Hosts are network namespaces on a bridge, and /tmp is the folder that they share. The cut is noticed after about 10 s,
and until then the lost worker's chunks are waited for.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import faults
import psutil
import pytest
from faults import Deaths, assert_same_rows, committed, drawn, fingerprint_in_process, report_times, wait_until

import rsf_dist as rsf

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
HEAD = "10.213.77.1"
# A worker that is cut off is missed after 4 checks of 2 s, one a second.
HEALTH = {"initial_delay_ms": 1000, "period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 4}


class Host:
    """A network namespace with one address."""

    def __init__(self, name: str, address: str, environment: dict[str, str]):
        self.name, self.address, self.environment = f"rsf{os.getpid()}{name}", address, environment
        made = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> None:
        subprocess.run(["ip", "-n", self.name, *arguments], check=True, capture_output=True)

    def plug_into(self, bridge: "Host", cable: str) -> None:
        bridge.ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        bridge.ip("link", "set", cable, "master", "bridge", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")

    def command(self, *arguments: object) -> list[str]:
        return ["ip", "netns", "exec", self.name, *map(str, arguments)]

    def start_ray(self, *arguments: str) -> None:
        """`ray start`; returns once it is up, as the hosts share /tmp, and its sockets there are numbered."""
        own = [f"--node-ip-address={self.address}", "--num-cpus=1", f"--object-store-memory={100 * 2**20}", "--block"]
        command = self.command(BIN / "ray", "start", *arguments, *own, "--disable-usage-stats")
        said = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).with_name(f"{self.name}.log")
        with said.open("wb") as log:
            subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        wait_until(lambda: "Ray runtime started" in said.read_text())

    def remove(self) -> None:
        """The namespace, and every process in it."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout
        processes = [psutil.Process(int(pid)) for pid in listed.split() if psutil.pid_exists(int(pid))]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=10)
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


class Hosts:
    """A head, whose namespace holds the bridge, and two workers; their Ray wants a token of whoever joins."""

    def __init__(self, folder: Path, stack: ExitStack):
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        health = {f"RAY_health_check_{name}": str(value) for name, value in HEALTH.items()}
        environment = os.environ | health | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        environment |= {"OMP_NUM_THREADS": "1"}
        self.head, *self.workers = self.all = [
            self._host(name, f"{HEAD[:-1]}{number}", environment, stack)
            for number, name in enumerate(("head", "one", "two"), start=1)
        ]
        self.head.ip("link", "add", "bridge", "type", "bridge")
        self.head.ip("address", "add", f"{HEAD}/24", "dev", "bridge")
        self.head.ip("link", "set", "bridge", "up")
        for number, worker in enumerate(self.workers):
            worker.plug_into(self.head, f"cable{number}")
        self._start(folder)

    def _host(self, name: str, address: str, environment: dict[str, str], stack: ExitStack) -> Host:
        host = Host(name, address, environment)
        stack.callback(host.remove)
        return host

    def _start(self, folder: Path) -> None:
        self.head.start_ray("--head", "--port=6379", f"--temp-dir={folder}", "--include-dashboard=false")
        for worker in self.workers:
            worker.start_ray(f"--address={HEAD}:6379")

    def lets_in(self, environment: dict[str, str]) -> bool:
        """Return whether a worker's process with this environment may join as a driver."""
        code = f"import ray; ray.init(address='{HEAD}:6379', log_to_driver=False)"
        tried = self.head.command(sys.executable, "-c", code)
        return subprocess.run(tried, env=environment, capture_output=True, timeout=60).returncode == 0

    def pull_the_cable(self, number: int) -> None:
        self.head.ip("link", "set", f"cable{number}", "down")

    def reaches(self, number: int) -> bool:
        code = f"import socket; socket.create_connection(('{self.workers[number].address}', 9), timeout=2)"
        tried = subprocess.run(self.head.command(sys.executable, "-c", code), capture_output=True, text=True)
        return "ConnectionRefusedError" in tried.stderr  # by its kernel: nothing listens there

    def sample(self, store: rsf.RunStore, log: Path, wanted: int) -> subprocess.Popen:
        """A driver on the head that samples and prints the fingerprint."""
        script = self.head.command(
            sys.executable, faults.__file__, f"{HEAD}:6379", store.uri, log, wanted, len(self.all)
        )
        return subprocess.Popen(script, env=self.head.environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        pytest.skip("no `ip` here: install iproute2")
    folder = Path(tempfile.mkdtemp(prefix="rsf"))  # short: Ray puts sockets beneath it
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Hosts(folder, stack)


@pytest.mark.soak
def test_a_worker_whose_cable_is_pulled_changes_nothing(hosts, tmp_path, soak, record_property) -> None:
    wanted = 200_000 if soak else 20_000  # 80 chunks of 0.2 s
    mark = fingerprint_in_process(wanted, tmp_path)
    without_token = {name: value for name, value in hosts.head.environment.items() if "AUTH" not in name}
    assert hosts.lets_in(hosts.head.environment)
    assert not hosts.lets_in(without_token | {"RAY_AUTH_MODE": "disabled"})

    started = time.monotonic()
    driver = hosts.sample(rsf.RunStore(tmp_path / "undisturbed"), tmp_path / "undisturbed.log", wanted)
    assert mark in driver.communicate(timeout=120)[0]
    undisturbed = time.monotonic() - started

    store, log = rsf.RunStore(tmp_path / "run"), tmp_path / "log"
    started = time.monotonic()
    driver = hosts.sample(store, log, wanted)
    wait_until(lambda: committed(store) and len({node for _, node in drawn(log)}) == 3)
    cut_off = json.loads(Path(f"{log}.nodes").read_text())[hosts.workers[1].address]
    deaths, before = Deaths(log, store, cut_off), committed(store)
    hosts.pull_the_cable(1)
    deaths.note(before)
    assert driver.poll() is None
    assert hosts.reaches(0)
    assert not hosts.reaches(1)
    assert mark in driver.communicate(timeout=150)[0]  # Ray reports there, too, what it repairs
    seconds = time.monotonic() - started
    assert_same_rows(rsf.AcceptedSet.load(store), mark, wanted)
    report_times(record_property, "cable pulled", seconds, undisturbed, deaths.drawn_again())
