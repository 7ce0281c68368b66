"""`rsf demo`: the main job, on data that the package makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rsf_dist.commands.options import Address, Debug, Json, Overrides
from rsf_dist.commands.output import progress_shown, show
from rsf_dist.errors import InputError


def demo(
    overrides: Overrides = None,
    output: Annotated[
        str | None, typer.Option(help="Local folder to write to. By default runs/demo, or runs/demo-2, …")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 1,
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Adapt a classifier of digits to a made target domain.

    The digits are real scans. In the target domain they are turned, dim and noisy. It takes minutes on two cores.
    """
    from importlib.resources import files

    from rsf_dist.config.load import load_config
    from rsf_dist.demo.digits_domain import make_domain
    from rsf_dist.runs import pipeline
    from rsf_dist.storage.run_store import RunStore

    output = output or next(name for name in _demo_names() if not Path(name).exists())
    if "://" in output:
        raise InputError("--output", output, "the demo writes its images there as files", "name a local folder")
    domain = Path(output) / "target_domain"
    roots = {"target": "unlabelled", "evaluation.test": "test", "evaluation.oracle": "oracle"}
    own = [f"output={output}", f"num_seeds={seeds}", *(f"{key}.root={domain / name}" for key, name in roots.items())]
    loaded = load_config(str(files("rsf_dist.demo") / "digits.yaml"), [*own, *(overrides or ())])
    pipeline.require_same(RunStore(output), loaded, advise=False)
    with progress_shown() as progress:
        if not domain.exists():
            progress.say(f"writing the target domain's images into {domain}")
            partial = domain.with_name("target_domain.partial")
            make_domain(partial)
            partial.rename(domain)
        result = pipeline.run(loaded, address=address, verbose=debug, progress=progress)
    show(result, as_json)


def _demo_names() -> Iterator[str]:
    yield "runs/demo"
    yield from (f"runs/demo-{number}" for number in itertools.count(2))
