"""The package's public names, which are loaded when they are first used."""

import subprocess
import sys

import pytest

import rsf_dist as rsf


def test_every_name_is_there() -> None:
    assert {"AcceptedSet", "FineTuner", "RejectionSampler", "load_config", "run"} <= set(rsf.__all__)
    assert set(rsf.__all__) <= set(dir(rsf))
    for name in rsf.__all__:
        assert getattr(rsf, name).__name__ == name
    every: dict = {}
    exec("from rsf_dist import *", every)
    assert set(rsf.__all__) <= set(every)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rsf.no_such_name
    assert rsf.__version__


def test_importing_it_imports_neither_torch_nor_ray() -> None:
    code = "import sys, rsf_dist; dir(rsf_dist); sys.exit(any(name in sys.modules for name in ('torch', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
