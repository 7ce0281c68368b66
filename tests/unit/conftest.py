import os
import signal
import subprocess

import pytest
import torch
from small import small_domain_in, small_run_of

from rsf_dist import cli

# A unit test that calls Ray by mistake fails, and starts no cluster.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Torch uses one thread, as in an actor; networks this small only lose time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_domain(tmp_path_factory):
    """The images of a target domain, which tests share and do not change."""
    return small_domain_in(tmp_path_factory.mktemp("small") / "domain")


@pytest.fixture
def small_run(small_domain, tmp_path):
    """Return the configuration of a small main job, as nested dicts."""
    return small_run_of(small_domain, tmp_path / "run")


@pytest.fixture
def rsf_here(monkeypatch, capsys):
    """The command in this process, which has imported torch and Ray already."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> subprocess.CompletedProcess:
        monkeypatch.setattr("sys.argv", ["rsf", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, out, err)

    yield run
    signal.signal(signal.SIGTERM, handler)
