"""The configuration of a comparison: a run's file, in which the arms and seeds that were asked for replace its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsf_dist.config.load import parse_config, read_file
from rsf_dist.config.run import RunConfig, comparable_arms


def load_comparison(
    path: str | Path,
    overrides: Sequence[str] = (),
    arms: Sequence[str] | None = None,
    num_seeds: int | None = None,
    output: str | None = None,
) -> RunConfig:
    """Read and check the YAML file at `path` as a comparison. The file's own arms do not matter.

    Args:
        path: the run's file.
        overrides: as those of `load_config`.
        arms: the arms to compare. None means all that the file allows.
        num_seeds: the number of seeds. None means num_seeds of the file if above 1, else 3.
        output: the directory to write to. None means the file's output with -compare.

    Raises:
        InputError: the first thing that is wrong.
    """
    raw = read_file(path, overrides)
    loaded = parse_config(_with_arms(raw, ["oracle"] if _has_oracle(raw) else []))
    possible = comparable_arms(loaded)
    chosen = possible if arms is None else arms
    own = {
        "num_seeds": num_seeds or (loaded.num_seeds if loaded.num_seeds > 1 else 3),
        "output": output or _beside(loaded.output),
    }
    return parse_config(_with_arms(raw | own, chosen))


def _has_oracle(raw: dict[str, Any]) -> bool:
    evaluation = raw.get("evaluation")
    return isinstance(evaluation, dict) and evaluation.get("oracle") is not None


def _with_arms(raw: dict[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    """Return the configuration with these arms, and without the images of an arm `oracle` that is not among them."""
    evaluation = raw.get("evaluation") or {}
    if not isinstance(evaluation, dict):
        return raw
    unused = {} if "oracle" in arms else {"oracle": None}
    return raw | {"evaluation": evaluation | {"arms": list(arms)} | unused}


def _beside(output: str) -> str:
    """Return the comparison's directory, beside the run's own."""
    path, question_mark, options = output.partition("?")  # as in s3://bucket/run?endpoint_override=…
    return f"{path.rstrip('/')}-compare{question_mark}{options}"
