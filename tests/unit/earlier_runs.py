"""Earlier runs in which every stage is there, with files of a few bytes, for tests of what another run takes over."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from records import progress_of, result_of
from seed_runs import CONFIG, RecordingProgress

from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.config.run import RunConfig
from rsf_dist.runs import made_with, reuse, rounds
from rsf_dist.runs.earlier_run import Basis, EarlierRun
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runs.stages import stages
from rsf_dist.sampling.envelope import Pilot
from rsf_dist.sampling.pilot import PilotRun, Probe
from rsf_dist.storage.manifest import Shard
from rsf_dist.storage.run_store import RunStore, _sha256

DIGESTS = {name: f"images of {name}" for name in ("source", "target", "test", "oracle")}
MADE_WITH = made_with.made_with(parse_config(CONFIG))
ROWS = b"a shard"


def config_of(**sections: Any) -> RunConfig:
    """The configuration of `seed_runs`, with other sections."""
    return parse_config(CONFIG | sections)


def basis_of(digests: dict[str, str] = DIGESTS, record: Any = MADE_WITH, **sections: Any) -> Basis:
    """What the stages of a run depend on."""
    return Basis(config_of(**sections), digests, record)


def fill(store: RunStore, config: RunConfig, last: int | None) -> None:
    """Put every stage of a configuration into a seed's directory."""
    for name, stage in stages(config, last).items():
        for folder in stage.folders:
            num_pilot = None if stage.explores is None else rounds.pilot_rows(config, stage.explores, None)
            store.commit_folder(folder, partial(_put, name, num_pilot))
        if stage.round is not None:
            shard = Shard(3, f"{name}/chunk-000003.parquet", 2, _sha256(ROWS))
            store.write(shard.path, ROWS)
            wanted = reuse._wanted(config, stage)
            store.commit_round(stage.round, progress_of(shard, result=result_of(wanted=wanted), chunks=4))


def _put(name: str, num_pilot: int | None, folder: Path) -> None:
    (folder / "file").write_text(name)
    if num_pilot is not None:
        put_pilot(num_pilot, folder)


def put_pilot(num_pilot: int, folder: Path, log_bound: float | None = None) -> None:
    """A pilot of so many proposals, all of the same ratio."""
    PilotRun(Pilot(np.zeros(num_pilot), np.zeros(num_pilot), log_bound), 0.0, Probe("", ())).save(folder)


def earlier_run(folder: Path, basis: Basis, last: int | None = None) -> EarlierRun:
    """A complete run of one seed; `last` is the last of its rounds, by default that of its configuration."""
    store = RunStore(folder)
    fill(store, basis.config, basis.config.rounds.num_rounds - 1 if last is None else last)
    store.write("config.yaml", dump_config(basis.config))
    return EarlierRun(store, basis)


def seed_run_of(folder: Path, basis: Basis) -> SeedRun:
    """The first seed of a run that begins in an empty folder."""
    return SeedRun(basis.config, SimpleNamespace(), RunStore(folder), basis.config.seed, RecordingProgress())


def taken(earlier: EarlierRun, folder: Path, basis: Basis) -> set[str]:
    """The stages that a run in this folder takes over."""
    seed_run = seed_run_of(folder, basis)
    reuse.take_over(earlier, basis, [seed_run])
    return set(seed_run.store.manifest().taken_over)
