"""Places that a run cannot be written to."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bad_input.case import Case, Changes

S3 = "s3://bucket/run?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{port}"


class _Forbids(BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def forbidding_server() -> Iterator[int]:
    """An S3 endpoint on this machine that answers 403 to everything; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Forbids)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def port_of_nobody() -> int:
    """A port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cases() -> Iterator[Case]:
    """All but those that need the server."""
    for name, output in {
        "with an unknown scheme": "gopher://host/run",
        "with no bucket": "s3://",
        "on the web": "https://example.com/run",
        "in a file system of the kernel's": "/proc/no_such_run",
        "with a zero byte": "a\0b",
        "with too long a name": "/tmp/" + "x" * 500,
        "of nobody's home": "~no_such_user_at_all/run",
        "with an option that is none": "s3://bucket/run?no_such_option=1",
    }.items():
        yield Case(f"an output {name}", "output", lambda folder, output=output: {"output": output}, seconds=20)
    yield Case("a file in the output's way", "output", _file_in_the_way)
    yield Case("a file in the way above the output", "output", _file_above)
    yield Case("another run in the output", "output", _another_run, earlier={})
    if os.geteuid() != 0:
        yield Case("an output without permission", "output", _no_permission)


def _file_in_the_way(folder: Path) -> Changes:
    (folder / "place").write_text("not a run")
    return {"output": str(folder / "place")}


def _file_above(folder: Path) -> Changes:
    (folder / "place").write_text("not a run")
    return {"output": str(folder / "place" / "run")}


def _another_run(folder: Path) -> Changes:
    return {"output": str(folder / "run"), "sampling.num_accepted": 9}


def _no_permission(folder: Path) -> Changes:
    (folder / "place").mkdir(mode=0o500)
    return {"output": str(folder / "place" / "run")}
