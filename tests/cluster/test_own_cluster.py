"""The cluster that rsf starts for itself: who may join it."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

OWN = """
import os, subprocess, sys, ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from rsf_dist.resources import cluster
with cluster():
    print("token:", is_token_auth_enabled())
    address = ray.get_runtime_context().gcs_address
    for mode in ("token", "disabled"):
        joined = subprocess.run(
            [sys.executable, "-c", "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)", address],
            env={**os.environ, "RAY_AUTH_MODE": mode}, capture_output=True, timeout=100,
        )
        print(mode, "joined:", joined.returncode == 0)
"""


def test_nobody_joins_it_without_its_token(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = subprocess.run(
        [sys.executable, "-c", OWN], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert said.returncode == 0, said.stderr
    assert [line for line in said.stdout.splitlines() if "joined" in line or "token:" in line] == [
        "token: True",
        "token joined: True",
        "disabled joined: False",
    ]
