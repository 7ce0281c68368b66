"""A run that takes over from an earlier run what both have in common: the option `--from`.

A stage (`runs.stages`) is taken over if all that it depends on is equal and known, its files are undamaged, and the
stages that it rests on were taken over. Everything else is made anew. The rows and their fingerprint are therefore
those of a run that begins from nothing. The earlier run is only read. Its files are copied, so that it may be deleted
later.

Where more rows are wanted, a round's chunks are taken over and sampling draws on behind them. Chunks follow from their
numbers, and M depends on the chunks before alone, so that a run from nothing would have drawn the same ones. Fewer rows
would have ended sooner, perhaps at a smaller M, and are drawn anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from rsf_dist.config.resume import differences
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError
from rsf_dist.report.report_json import ONE_SHOT
from rsf_dist.runs.arms import arms
from rsf_dist.runs.class_prior import class_prior_folder
from rsf_dist.runs.earlier_run import Basis, EarlierRun
from rsf_dist.runs.made_with import ACCELERATORS, MadeWith, contents_of, items_in, libraries, libraries_in
from rsf_dist.runs.rounds import pilot_rows
from rsf_dist.runs.run_folder import stored_config
from rsf_dist.runs.seed_run import SeedRun, without_rounds
from rsf_dist.runs.stages import Stage, stages, values
from rsf_dist.sampling.pilot import PilotRun
from rsf_dist.storage.manifest import MANIFEST, Manifest, RoundProgress, TakenOver
from rsf_dist.storage.run_store import RunStore

_GPU_KEYS = ("gpus", "gpus_per_actor", "use_gpu")
_HERE_ALREADY = "made by this run already"


@dataclass(frozen=True)
class _Pair:
    """One seed of the earlier run and the same seed of the run that takes over, and how both differ."""

    old: RunStore
    new: RunStore
    before: Basis
    now: Basis
    run: str
    folder: str
    of_all: tuple[str, ...] = ()
    say: Callable[[str], object] = lambda text: None

    def one_shot(self) -> _Pair:
        """Return the pair of one-shot rejections beside the rounds."""
        before, now = (replace(basis, config=without_rounds(basis.config)) for basis in (self.before, self.now))
        folder = "/".join(filter(None, (self.folder, ONE_SHOT)))
        return replace(
            self, old=self.old.at(ONE_SHOT), new=self.new.at(ONE_SHOT), before=before, now=now, folder=folder
        )

    def table(self) -> dict[str, Stage]:
        """Return the stages of the new run that can be in the old one."""
        config, manifest = self.before.config, self.old.manifest()
        decided = (n for n in range(config.rounds.num_rounds) if class_prior_folder(n) in manifest.folders)
        last = 0 if config.rounds.num_rounds == 1 else next(decided, None)
        return stages(self.now.config, 0 if self.now.config.rounds.num_rounds == 1 else last or None)


def require_libraries_and_seeds(earlier: EarlierRun, config: RunConfig) -> None:
    """Raise InputError where nothing can be taken over whatever the images are, so that none need be read."""
    reasons = list(_library_differences(earlier.basis.made_with, libraries()))
    if not any(earlier.at_seed(config.seed + number) for number in range(config.num_seeds)):
        reasons.append(f"it has nothing of seed {config.seed} (its first seed is {earlier.basis.config.seed})")
    if reasons:
        raise _of_no_use(earlier, reasons)


def _of_no_use(earlier: EarlierRun, reasons: list[str]) -> InputError:
    rule = f"nothing of it serves this run: {reasons[0]}"
    return InputError("--from", earlier.store.uri, rule, "leave --from out, or name another run")


def require_use(earlier: EarlierRun, now: Basis, seed_runs: Iterable[SeedRun]) -> None:
    """Raise InputError where no stage of any seed can be taken over.

    This is asked once the images are read. A cluster that is not joined by then counts as one with the GPUs of the
    earlier run.
    """
    accelerators = {ACCELERATORS: earlier.basis.made_with.get(ACCELERATORS)}
    now = replace(now, made_with={**now.made_with, **accelerators})
    reasons: list[str] = []
    for pair in _pairs(earlier, now, seed_runs):
        kept, not_kept = _go_through(pair, lambda name, stage: None)
        if kept:
            return
        reasons += not_kept.values()
    raise _of_no_use(earlier, reasons or ["it has no stage of this run"])


def take_over(earlier: EarlierRun, now: Basis, seed_runs: Iterable[SeedRun]) -> None:
    """Copy what the earlier run and this one have in common, and say what was taken over and what was not."""
    for seed_run in seed_runs:
        for pair in _pairs(earlier, now, [seed_run]):
            table = pair.table()
            kept, not_kept = _go_through(pair, lambda name, stage: _take(pair, name, stage))  # noqa: B023
            _note_made_anew(pair.new, table, not_kept)
            for line in _lines(pair, table, kept, not_kept):
                pair.say(line)


def _pairs(earlier: EarlierRun, now: Basis, seed_runs: Iterable[SeedRun]) -> Iterator[_Pair]:
    of_all = tuple(_library_differences(earlier.basis.made_with, now.made_with))
    for seed_run in seed_runs:
        found = earlier.at_seed(seed_run.seed)
        if found is None:
            continue
        old, folder = found
        say = seed_run.progress.say
        pair = _Pair(old, seed_run.store, earlier.basis, now, earlier.store.uri, folder, of_all, say)
        yield pair
        beside = now.config.own_arm != "one_shot" and "one_shot" in arms(now.config)
        if beside and old.exists(f"{ONE_SHOT}/{MANIFEST}"):
            yield pair.one_shot()


def _go_through(pair: _Pair, take: Callable[[str, Stage], str | None]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the stages that are taken over, and of those that are not, with the reason.

    Stages that the earlier run does not have are in neither.

    Args:
        pair: the seed in both runs.
        take: takes a stage over; it returns the reason where this fails.
    """
    table, manifest = pair.table(), pair.old.manifest()
    kept: list[str] = []
    not_kept: dict[str, str] = {}
    for name, stage in table.items():
        if not _is_there(manifest, stage):
            continue
        lost = [table[base].title for base in stage.rests_on if base not in kept]
        differing = [f"without the {lost[0]}"] if lost and not pair.of_all else list(_obstacles(pair, stage, manifest))
        reason = _listed(differing) or take(name, stage)
        if reason:
            not_kept[name] = reason
        else:
            kept.append(name)
    return kept, not_kept


def _is_there(manifest: Manifest, stage: Stage) -> bool:
    if stage.round is not None:
        return stage.round in manifest.rounds
    return all(folder in manifest.folders for folder in stage.folders)


def _obstacles(pair: _Pair, stage: Stage, manifest: Manifest) -> Iterator[str]:
    """Yield what of a stage's own dependences differs, or is not known."""
    yield from pair.of_all
    before, now = values(pair.before.config, stage), values(pair.now.config, stage)
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            yield f"{key}={now.get(key, '(absent)')} (was {before.get(key, '(absent)')})"
    for name in stage.images:
        was = pair.before.digests.get(name)
        if was != pair.now.digests.get(name):
            yield f"the images of {name} {'differ' if was else 'are not known there'}"
    yield from _differing_contents(pair, now)
    yield from (f"{kind} is no kind of rsf_dist's own" for kind in _foreign_kinds(pair.now.config, stage))
    if stage.explores is not None:
        yield from _obstacles_of_pilot(pair, stage, stage.explores)
    if stage.round is not None:
        yield from _obstacles_of_rows(pair, stage, manifest.rounds[stage.round])


def _library_differences(before: MadeWith, now: MadeWith) -> Iterator[str]:
    if not before:
        yield "it does not record with which libraries it was made"
        return
    for name, value in libraries_in(now).items():
        was = before.get(name)
        if was is None:
            yield f"{name} changed while it was made, or is not known"
        elif was != value:
            yield f"{name} {value} (was {was})"


def _differing_contents(pair: _Pair, now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the stage's keys name outside of the configuration, and GPUs, where these differ or are not known."""
    records = (pair.before.made_with, pair.now.made_with)
    items = [item for key, value in now.items() for item in items_in(value, key)]
    names = [contents_of(text) for _, text in items if isinstance(text, str)]
    if any(value and key.rpartition(".")[2] in _GPU_KEYS for key, value in items):
        names.append(ACCELERATORS)
    for name in names:
        found = [record.get(name) for record in records if name in record]
        if found and (len(found) < 2 or None in found):
            yield f"{name} not known"
        elif found and found[0] != found[1]:
            yield f"{name} differ"


def _foreign_kinds(config: RunConfig, stage: Stage) -> Iterator[str]:
    """Yield the names of the user's own kinds among the stage's sections. Their code is not known."""
    for key in stage.keys:
        yield from _foreign(getattr(config, key.partition(".")[0], None))


def _foreign(node: object) -> Iterator[str]:
    if isinstance(node, BaseModel):
        if type(node).__module__.partition(".")[0] != __name__.partition(".")[0]:
            yield type(node).__name__
        for name in type(node).model_fields:
            yield from _foreign(getattr(node, name))
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _foreign(item)


def _obstacles_of_rows(pair: _Pair, stage: Stage, progress: RoundProgress) -> Iterator[str]:
    was, wanted = (_wanted(basis.config, stage) for basis in (pair.before, pair.now))
    if wanted < was:
        yield f"{stage.wanted}={wanted} (was {was}; fewer rows are drawn anew)"
    budget, work = pair.now.config.sampling.budget, progress.work
    if stage.wanted.startswith("sampling"):
        most = budget.chunks_for(wanted, work.chunk_size, work.pool_size)
        if progress.chunks > most:
            yield f"its rows took more than the {most * work.chunk_size:,} proposals of sampling.budget"


def _obstacles_of_pilot(pair: _Pair, stage: Stage, explores: bool) -> Iterator[str]:
    """Yield the reason where the sampler would draw the pilot again, with another number of proposals."""
    pilot = pair.old.find_folder(stage.folders[0], PilotRun.load)
    if pilot is None:  # damaged, as is told when it is copied
        return
    had = len(pilot.rows.log_ratio)
    try:
        needed = pilot_rows(pair.now.config, explores, pilot.rows.log_bound)
    except InputError:  # of the user's own envelope, whose folder is not known yet where the advice is asked for
        yield "the proposals that its pilot needs are not known"
        return
    if had != needed:
        yield f"it needs a pilot of {needed:,} proposals (was {had:,})"


def _wanted(config: RunConfig, stage: Stage) -> int:
    section, _, key = stage.wanted.partition(".")
    return getattr(getattr(config, section), key)


def _take(pair: _Pair, name: str, stage: Stage) -> str | None:
    """Copy a stage's files; return the reason where that is not done."""
    if _has(pair.new, stage):
        taken = pair.new.manifest().taken_over.get(name)
        return None if taken is not None and taken.run == pair.run else _HERE_ALREADY
    damage = next(filter(None, map(pair.old.damage_of, stage.folders)), None)
    if damage is not None:
        return damage
    copied = _copy_folders(pair, stage) if stage.round is None else _copy_rows(pair, stage, stage.round)
    if copied is None:
        return "changed while it was read"
    _note(pair.new, {name: copied}, {})
    return None


def _has(store: RunStore, stage: Stage) -> bool:
    return _is_there(store.manifest(), stage) and all(map(store.is_intact, stage.folders))


def _note(store: RunStore, taken: Mapping[str, TakenOver], anew: Mapping[str, str]) -> None:
    """Note in the manifest what was taken over and what is made anew. No stage stands in both."""

    def note(manifest: Manifest) -> None:
        manifest.taken_over = {k: v for k, v in {**manifest.taken_over, **taken}.items() if k not in anew}
        manifest.made_anew = {k: v for k, v in {**manifest.made_anew, **anew}.items() if k not in taken}

    store.commit(note)


def _copy_folders(pair: _Pair, stage: Stage) -> TakenOver | None:
    if not all(pair.new.copy_from(folder, pair.old) for folder in stage.folders):
        return None
    listed = pair.new.manifest().folders
    files = {f"{folder}/{name}": sha256 for folder in stage.folders for name, sha256 in listed[folder].items()}
    return _described(pair, files)


def _copy_rows(pair: _Pair, stage: Stage, number: int) -> TakenOver:
    """Copy a round's chunks. A damaged shard is listed without its file, so that sampling draws its chunk again."""
    progress = pair.old.manifest().rounds[number]
    files = {shard.path: shard.sha256 for shard in progress.shards if pair.new.copy_shard(shard, pair.old)}
    for shard in progress.shards:
        if shard.path not in files:
            pair.say(f"{shard.path} is damaged in {pair.old.uri}: its chunk is drawn again")
    grown = _wanted(pair.before.config, stage) < _wanted(pair.now.config, stage)
    pair.new.commit_round(number, progress.model_copy(update={"result": None}) if grown else progress)
    return _described(pair, files, round=number, chunks=progress.chunks)


def _described(pair: _Pair, files: Mapping[str, str], round: int | None = None, chunks: int = 0) -> TakenOver:
    sha256 = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return TakenOver(run=pair.run, folder=pair.folder, files=len(files), sha256=sha256, round=round, chunks=chunks)


def _note_made_anew(store: RunStore, table: Mapping[str, Stage], not_kept: Mapping[str, str]) -> None:
    """Note the stages that are still to be made. Those that the run has, perhaps from another run, are not."""
    told = {name: reason for name, reason in not_kept.items() if not _has(store, table[name])}
    known = store.manifest()
    if any(known.made_anew.get(name) != reason or name in known.taken_over for name, reason in told.items()):
        _note(store, {}, told)


def _lines(pair: _Pair, table: Mapping[str, Stage], kept: Iterable[str], not_kept: Mapping[str, str]) -> Iterator[str]:
    """Yield a line on what was taken over, and one for each reason to make stages anew."""
    of_folder = f" ({pair.folder})" if pair.folder else ""
    if kept:
        yield f"taken over from {pair.run}{of_folder}: {', '.join(table[name].title for name in kept)}"
    for reason in dict.fromkeys(not_kept.values()):
        titles = ", ".join(table[name].title for name, why in not_kept.items() if why == reason)
        yield f"made anew{of_folder}: {titles}; {reason}"


def advice(store: RunStore, config: RunConfig) -> str:
    """Return what a run that the directory does not hold could take over from it, in words; empty where nothing.

    The images are taken as unchanged where the configuration does not change them.
    """
    before = stored_config(store)
    if any(line.startswith(("source.", "target.")) for line in differences(before, config)):
        return ""
    earlier, now = EarlierRun(store, Basis(before)), Basis(config)
    for number in range(config.num_seeds):
        found = earlier.at_seed(config.seed + number)
        if found is not None:
            pair = _Pair(found[0], store, earlier.basis, now, store.uri, found[1])
            table = pair.table()
            return ", ".join(table[name].title for name in _go_through(pair, lambda name, stage: None)[0])
    return ""


def _listed(reasons: list[str]) -> str:
    more = len(reasons) - 2
    return ", ".join(reasons[:2]) + (f" and {more} more" if more > 0 else "")
