"""The stages of a run: a configuration goes in, and a run directory comes out.

    config -> inputs -> for each seed:  (ratio -> accepted rows) round by round -> fine-tuned models -> report

Each seed has a directory of its own: the run's where there is one seed, else seeds/000, seeds/001, …
A run whose directory exists is resumed where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from torch import nn

from rsf_dist.builders.image_packing import Join, packed_bytes, packing_for, prune
from rsf_dist.builders.inputs import Inputs, load_inputs
from rsf_dist.builders.preflight import preflight
from rsf_dist.cluster.capacity import check_pool, check_ratio, check_training
from rsf_dist.cluster.connection import connect
from rsf_dist.cluster.shared_storage import check_disk, require_shared
from rsf_dist.cluster.workers import ship_code
from rsf_dist.config.load import dump_config, filled
from rsf_dist.config.resume import differences, with_kept_defaults
from rsf_dist.config.run import RunConfig
from rsf_dist.data.packing import Packing
from rsf_dist.errors import InputError, located
from rsf_dist.inspection.findings import run_findings
from rsf_dist.models import weights
from rsf_dist.models.spec import load_network
from rsf_dist.report import report_json
from rsf_dist.report.html import write_html
from rsf_dist.report.schema import Report
from rsf_dist.runs.arms import MODEL, arms, train_seed, training_bytes
from rsf_dist.runs.made_with import MadeWith, made_with, together
from rsf_dist.runs.reuse import Basis, EarlierRun, advice, find_earlier, require_use, take_over
from rsf_dist.runs.rounds import last_rows, sample_seed
from rsf_dist.runs.run_folder import CONFIG, DIGESTS, INPUTS, seed_folder, stored_config, stored_digests
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runs.source_names import SourceNames
from rsf_dist.runtime import user_code
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.lock import run_lock
from rsf_dist.storage.run_store import RunStore

_ROW_BYTES = 100
"""Bytes of a row's parameters and bookkeeping, beside its image."""


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


def prepare(config: RunConfig, progress: Progress | None = None, packing: Packing | None = None) -> Inputs:
    """Read the images and try each part of the configuration once, so that mistakes are refused before anything starts.

    Each import path of the configuration is shown with the file that it was loaded from, and each file of weights with
    what was taken from it.

    Args:
        config: the run's configuration.
        progress: receiver of messages.
        packing: finds and makes packed image sets. None means that all are read into memory.

    Raises:
        InputError: an image set or another part of the configuration does not work.
    """
    progress = progress or Progress()
    if config.code_folder is not None:
        user_code.allow_folder(config.code_folder)
    user_code.LOADED.clear()
    weights.TAKEN.clear()
    inputs = load_inputs(config, packing)
    config = filled(config, inputs.image_defaults)
    for finding in run_findings(config, inputs):
        progress.say(finding.line())
    for line in _chosen(config, inputs):
        progress.say(line)
    preflight(config, inputs)
    for path, file in user_code.LOADED.items():
        progress.say(f"using {path} from {file}")
    for line in weights.TAKEN:
        progress.say(line)
    if config.code_folder is not None:
        ship_code(config.code_folder)
    return inputs


def _chosen(config: RunConfig, inputs: Inputs) -> Iterator[str]:
    """Yield what is proposed, and what the images' size chose of the keys that were left open."""
    yield f"proposals: {config.proposal.summary}"
    channels, height, width = inputs.source.images.shape[1:]
    chosen = ", ".join(
        f"{key}={_flow(value)}" for key, value in inputs.image_defaults.items() if not key.startswith("proposal.")
    )
    if chosen:
        yield f"chosen for images of {channels} x {height} x {width}, unless you name them: {chosen}"


def _flow(value: object) -> str:
    """Return a value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).partition("\n...")[0].strip()


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
    """Check the cluster and the disk, say what the image sets hold, and write the resolved configuration.

    What an earlier run has in common with this one is taken over from it.

    Raises InputError.
    """
    check_cluster(config, sampling=True, training=training)
    check_disk(store.uri, packed_bytes(store) + forecast_bytes(config, inputs, training), "output")
    for line in inputs.summaries():
        progress.say(line)
    now = _basis(config, inputs)
    write_basis(store, now, inputs)
    if earlier is not None:
        take_over(earlier, now, _all_seeds(config, inputs, store, progress))


def _basis(config: RunConfig, inputs: Inputs) -> Basis:
    return Basis(config, inputs.digests(), made_with(config))


def write_basis(store: RunStore, now: Basis, inputs: Inputs) -> None:
    """Write into a run's directory what its stages depend on: images' digests, record, resolved configuration."""
    if not store.is_intact(INPUTS):
        store.commit_folder(INPUTS, lambda folder: _describe_inputs(now, inputs, folder))
    record_made_with(store, now.made_with)
    store.write(CONFIG, dump_config(now.config))


def record_made_with(store: RunStore, now: MadeWith) -> None:
    """Add to the manifest what the results that are made now rest on; of results without a record it is unknown."""
    stored = store.manifest().made_with
    record = together(stored or (dict.fromkeys(now) if store.exists(CONFIG) else {}), now)
    if record != stored:
        store.commit(lambda manifest: manifest.made_with.update(record))


def _describe_inputs(now: Basis, inputs: Inputs, folder: Path) -> None:
    (folder / DIGESTS).write_text(json.dumps(now.digests, indent=1) + "\n")
    SourceNames.of(inputs.proposed_from).save(folder)


def check_cluster(config: RunConfig, sampling: bool, training: bool) -> None:
    """Refuse requests that the cluster cannot hold, and folders that not all its nodes see. Raises InputError."""
    pool_beside = config.sampling.pool if config.sampling.mode == "stream" else None
    if sampling:
        with located("ratio"):
            check_ratio(config.ratio)
        rounds = config.rounds
        if rounds.num_rounds > 1 and rounds.class_prior is not None and config.ratio.leaves_class_prior_open:
            with located("rounds.class_prior"):
                check_ratio(rounds.class_prior)
        with located("sampling.pool"):
            check_pool(config.sampling.pool)
    nodes_come_later = sampling and config.training.wait_seconds  # asked for now, they would idle until then
    if training and not nodes_come_later:
        with located("training"):
            check_training(config.training, pool_beside)
    require_shared(RunStore(config.output).uri, "output")
    if config.code_folder is not None:
        require_shared(config.code_folder, "code_folder")


def forecast_bytes(config: RunConfig, inputs: Inputs, training: bool) -> int:
    """Return the bytes that a run may take on disk: all rows, uncompressed, and the models with their checkpoints."""
    rounds, num_accepted = config.rounds, config.sampling.num_accepted
    num_rows = num_accepted + (rounds.num_rounds - 1) * rounds.num_accepted
    if training and config.own_arm != "one_shot" and "one_shot" in arms(config):
        num_rows += num_accepted
    model_bytes = training_bytes(config, inputs) if training else 0
    row_bytes = inputs.source.images[0].nbytes + _ROW_BYTES
    return config.num_seeds * (num_rows * row_bytes + model_bytes)


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
