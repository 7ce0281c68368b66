"""Earlier runs in which every stage is there, with files of a few bytes, for tests of what another run takes over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from records import progress_of, result_of
from seed_runs import CONFIG, RecordingProgress

from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.config.run import RunConfig
from rsf_dist.runs import made_with, reuse
from rsf_dist.runs.reuse import Basis, EarlierRun
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runs.stages import stages
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
            store.commit_folder(folder, lambda to, name=name: (to / "file").write_text(name))
        if stage.round is not None:
            shard = Shard(3, f"{name}/chunk-000003.parquet", 2, _sha256(ROWS))
            store.write(shard.path, ROWS)
            wanted = reuse._wanted(config, stage)
            store.commit_round(stage.round, progress_of(shard, result=result_of(wanted=wanted), chunks=4))


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
