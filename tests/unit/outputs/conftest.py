import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from rsf_dist import cli

Command = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def rsf_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Iterator[Command]:
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
