"""The stages of a run: a configuration goes in, and a run directory comes out.

    config -> inputs -> for each seed:  (ratio -> accepted rows) round by round -> fine-tuned models -> report

Each seed has a directory of its own: the run's where there is one seed, else seeds/000, seeds/001, …
A run whose directory exists is resumed where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from rsf_dist.builders.image_packing import Join, packed_bytes, packing_for, prune
from rsf_dist.builders.inputs import Inputs
from rsf_dist.cluster.connection import connect
from rsf_dist.cluster.shared_storage import check_disk
from rsf_dist.config.load import dump_config, filled
from rsf_dist.config.resume import differences, with_kept_defaults
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError
from rsf_dist.models.spec import load_network
from rsf_dist.report import report_json
from rsf_dist.report.html import write_html
from rsf_dist.report.schema import Report
from rsf_dist.runs.arms import MODEL, train_seed
from rsf_dist.runs.earlier_run import Basis, EarlierRun, find_earlier
from rsf_dist.runs.made_with import MadeWith, made_with, together
from rsf_dist.runs.preparation import check_cluster, description, forecast_bytes, prepare
from rsf_dist.runs.reuse import advice, require_libraries_and_seeds, require_use, take_over
from rsf_dist.runs.rounds import last_rows, sample_seed
from rsf_dist.runs.run_folder import CONFIG, DIGESTS, INPUTS, seed_folder, stored_config, stored_digests
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runs.source_names import SourceNames, kept_names
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.lock import run_lock
from rsf_dist.storage.run_store import RunStore


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Args:
        store: the run's directory.
        report: the content of report.json.
    """

    store: RunStore
    report: Report

    def load_model(self, seed: int | None = None) -> nn.Module:
        """Load the fine-tuned model, which maps uint8 images [n, c, h, w] to logits.

        Args:
            seed: the seed whose model is loaded. None means the first one.
        """
        seeds = self.report.seeds
        number = 0 if seed is None else seeds.index(seed)
        return self.store.at(seed_folder(number, len(seeds))).load_folder(MODEL, load_network)


def run(
    config: RunConfig,
    *,
    reuse: str | None = None,
    address: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run the whole job: sample, fine-tune, compare and report. A run that the directory holds is resumed.

    Args:
        config: the run's configuration; see `load_config`.
        reuse: directory of an earlier run, a path or a URI. What both runs have in common is taken over from there; see
            `rsf_dist.runs.reuse`. None means that everything is made here.
        address: address of a Ray cluster. None means the cluster joined already, else that of RAY_ADDRESS, else a
            cluster of its own for the time of the run.
        verbose: True to show the workers' output.
        progress: receiver of messages.

    Raises:
        InputError: the configuration, its files or the cluster do not fit; the directory holds another run, or another
            process is writing it; nothing of the earlier run serves this one. What was committed before is kept.
        StatisticalRefusal: the ratio or the budget allows no result.
    """
    progress, earlier, join = progress or Progress(), _earlier(reuse, config), _joins(config, address, verbose)
    with open_run(config, progress, join, earlier) as (config, store, inputs), join():
        begin_run(config, inputs, store, progress, training=True, earlier=earlier)
        for seed_run in seed_runs(config, inputs, store, progress):
            accepted = sample_seed(seed_run)
            train_seed(seed_run, accepted)
        return write_report(config, store)


def sample(
    config: RunConfig,
    *,
    reuse: str | None = None,
    address: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run the first half of `run`: the ratio and the accepted rows, which `train` goes on with. Raises as `run`."""
    progress, earlier, join = progress or Progress(), _earlier(reuse, config), _joins(config, address, verbose)
    with open_run(config, progress, join, earlier) as (config, store, inputs), join():
        begin_run(config, inputs, store, progress, training=False, earlier=earlier)
        for seed_run in seed_runs(config, inputs, store, progress):
            sample_seed(seed_run)
        return write_report(config, store)


def train(
    output: str, *, address: str | None = None, verbose: bool = False, progress: Progress | None = None
) -> RunResult:
    """Run the second half of `run`, on the accepted rows in the directory `output`. Raises as `run`."""
    progress, config = progress or Progress(), stored_config(RunStore(output))
    join = _joins(config, address, verbose)
    with open_run(config, progress, join) as (config, store, inputs), join():
        check_cluster(config, sampling=config.sampling.mode == "stream", training=True)
        check_disk(store.uri, packed_bytes(store) + forecast_bytes(config, inputs, training=True), "output")
        _keep_inputs(store, inputs)
        record_made_with(store, made_with(config))
        for seed_run in seed_runs(config, inputs, store, progress):
            train_seed(seed_run, last_rows(seed_run))
        return write_report(config, store)


def _earlier(reuse: str | None, config: RunConfig) -> EarlierRun | None:
    return None if reuse is None else find_earlier(reuse, config.output)


def rebuild_report(output: str) -> RunResult:
    """Merge the reports of all seeds and draw report.html again. Raises InputError."""
    store = RunStore(output)
    config = stored_config(store)
    with run_lock(store):
        return write_report(config, store)


def _joins(config: RunConfig, address: str | None, verbose: bool) -> Join:
    return partial(connect, address, verbose, config.code_folder)


@contextmanager
def open_run(
    config: RunConfig, progress: Progress, join: Join | None = None, earlier: EarlierRun | None = None
) -> Iterator[tuple[RunConfig, RunStore, Inputs]]:
    """Hold the run's directory against other writers, and yield it with the resolved configuration and the images.

    Args:
        config: the run's configuration.
        progress: receiver of messages.
        join: joins the cluster, where there are many images to decode. None means that this process decodes them.
        earlier: the run to take over from. None means that nothing is taken over.

    Raises:
        InputError: the images do not fit; or the directory holds another run, or nothing can be taken over.
    """
    store = RunStore(config.output)
    store.manifest()  # refuses a run of another version, before even the lock is written
    with run_lock(store, progress), packing_for(config, progress, join) as packing:
        config = require_same(store, config)
        if store.exists(CONFIG):
            store.remove_drafts()
            progress.say(f"resuming the run in {store.uri}")
        if earlier is not None:
            require_libraries_and_seeds(earlier, config)
        inputs = prepare(config, progress, packing)
        changed = changed_inputs(store, inputs)
        if changed:
            rule = f"differ from the images that the run in {store.uri} began with"
            raise InputError(changed[0], "(its images)", rule, "restore them, or name another output")
        config = filled(config, inputs.image_defaults)
        if earlier is not None:
            require_use(earlier, _basis(config, inputs), _all_seeds(config, inputs, store, progress))
        prune(config, packing)
        yield config, store, inputs


def require_same(store: RunStore, config: RunConfig, advise: bool = True) -> RunConfig:
    """Return the configuration with what the run in the directory kept of keys that are left to the images.

    A directory that holds a run of another configuration is refused. The resources may differ.

    Args:
        store: the directory.
        config: the configuration.
        advise: name the option that takes over what both runs have in common.

    Raises:
        InputError: it holds another run.
    """
    if not store.exists(CONFIG):
        return config
    before = stored_config(store)
    config = with_kept_defaults(before, config)
    changes = differences(before, config)
    if changes:
        kept = advice(store, config) if advise else ""
        other = f"output with --from {store.uri}, which takes over: {kept}" if kept else "directory"
        rule, remedy = f"holds another run: {', '.join(changes)}", f"restore the configuration, or name another {other}"
        raise InputError("output", store.uri, rule, remedy)
    return config


def changed_inputs(store: RunStore, inputs: Inputs) -> list[str]:
    """Return the names of the image sets that changed since the run began; none where it has not begun."""
    before = stored_digests(store)
    if before is None:
        return []
    now = inputs.digests()
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def begin_run(
    config: RunConfig,
    inputs: Inputs,
    store: RunStore,
    progress: Progress,
    training: bool,
    earlier: EarlierRun | None = None,
) -> None:
    """Check the cluster and the disk, say what is proposed from which images, and write the resolved configuration.

    What an earlier run has in common with this one is taken over from it.

    Raises InputError.
    """
    check_cluster(config, sampling=True, training=training)
    check_disk(store.uri, packed_bytes(store) + forecast_bytes(config, inputs, training), "output")
    for line in description(config, inputs):
        progress.say(line)
    now = _basis(config, inputs)
    write_basis(store, now, inputs)
    if earlier is not None:
        take_over(earlier, now, _all_seeds(config, inputs, store, progress))


def _basis(config: RunConfig, inputs: Inputs) -> Basis:
    return Basis(config, inputs.digests(), made_with(config))


def write_basis(store: RunStore, now: Basis, inputs: Inputs) -> None:
    """Write into a run's directory what its stages depend on: images' digests, record, resolved configuration."""
    _keep_inputs(store, inputs)
    record_made_with(store, now.made_with)
    store.write(CONFIG, dump_config(now.config))


def record_made_with(store: RunStore, now: MadeWith) -> None:
    """Add to the manifest what the results that are made now rest on; of results without a record it is unknown."""
    stored = store.manifest().made_with
    record = together(stored or (dict.fromkeys(now) if store.exists(CONFIG) else {}), now)
    if record != stored:
        store.commit(lambda manifest: manifest.made_with.update(record))


def _keep_inputs(store: RunStore, inputs: Inputs) -> None:
    """Write the digests and names of the images, whichever of them a run does not keep undamaged."""
    names = kept_names(store)
    if names is None or not store.is_intact(INPUTS):
        kept = names or SourceNames.of(inputs.proposed_from)
        store.commit_folder(INPUTS, lambda folder: _describe_inputs(inputs, kept, folder))


def _describe_inputs(inputs: Inputs, names: SourceNames, folder: Path) -> None:
    (folder / DIGESTS).write_text(json.dumps(inputs.digests(), indent=1) + "\n")
    names.save(folder)


def write_report(config: RunConfig, store: RunStore) -> RunResult:
    """Write the merged report.json of all seeds, and report.html."""
    folders = [seed_folder(number, config.num_seeds) for number in range(config.num_seeds)]
    report = report_json.merge([store.at(folder) for folder in folders], folders)
    report_json.write(store, report)
    write_html(store, store.at(folders[0]), report)
    return RunResult(store, report)


def seed_runs(config: RunConfig, inputs: Inputs, store: RunStore, progress: Progress) -> Iterator[SeedRun]:
    """Yield the run's seeds, one after the other."""
    for number, seed_run in enumerate(_all_seeds(config, inputs, store, progress)):
        if config.num_seeds > 1:
            progress.say(f"seed {seed_run.seed} ({number + 1} of {config.num_seeds})")
        yield seed_run


def _all_seeds(config: RunConfig, inputs: Inputs, store: RunStore, progress: Progress) -> Iterator[SeedRun]:
    for number in range(config.num_seeds):
        at = store.at(seed_folder(number, config.num_seeds))
        yield SeedRun(config, inputs, at, config.seed + number, progress)
