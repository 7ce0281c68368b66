"""Config in, run directory out.

    config -> inputs -> for each seed:  (ratio -> accepted rows) round by round -> fine-tuned models -> report

Each seed is a trial with a directory of its own: the run's, or, where there are several, seeds/000, seeds/001, …
A run whose directory exists goes on where it stopped.
"""

from __future__ import annotations
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from torch import nn
from rsf_dist.runtime import user_code
from rsf_dist.runs.arms import MODEL, arms, train_seed, training_bytes
from rsf_dist.builders.inputs import Inputs, load_inputs
from rsf_dist.config.run import RunConfig
from rsf_dist.config.resume import differences
from rsf_dist.config.load import dump_config, parse_text
from rsf_dist.errors import InputError
from rsf_dist.storage.lock import run_lock
from rsf_dist.models.networks import load_network
from rsf_dist.runtime.progress import Progress
from rsf_dist.report import report_json
from rsf_dist.report.html import write_html
from rsf_dist.cluster.shared_storage import check_disk, require_shared
from rsf_dist.cluster.capacity import check_pool, check_ratio, check_training
from rsf_dist.cluster.connection import connect
from rsf_dist.cluster.workers import ship_code
from rsf_dist.runs.rounds import last_rows, sample_seed
from rsf_dist.storage.run_store import RunStore
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.builders.preflight import preflight



CONFIG = "config.yaml"


INPUTS, DIGESTS = "inputs", "digests.json"


_SWITCHED_OFF = ("fine_tuned_features: false", "relative_alpha: null")
"""Lines that earlier versions wrote into every run's config.yaml: features that the run did not use, since deleted."""


_ROW_BYTES = 100  # of parameters and bookkeeping


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Args:
        store: its directory.
        report: what report.json holds.
    """

    store: RunStore
    report: dict[str, Any]

    def load_model(self, seed: int | None = None) -> nn.Module:
        """The fine-tuned model, uint8 images [n, c, h, w] -> logits; of the first seed unless another is named."""
        seeds = self.report["seeds"]
        number = 0 if seed is None else seeds.index(seed)
        return self.store.at(seed_folder(number, len(seeds))).load_folder(MODEL, load_network)


def run(
    config: RunConfig, *, address: str | None = None, verbose: bool = False, progress: Progress | None = None
) -> RunResult:
    """The main job, whole: sample, fine-tune, compare, report. Where the directory holds this run, it goes on.

    Args:
        config: see `load_config`.
        address: of a Ray cluster; None: the one joined already, RAY_ADDRESS's, or one of its own while it runs.
        verbose: show the workers' output.
        progress: who is told.

    Raises:
        InputError: something in the configuration, its files or the cluster does not fit; the directory holds another
            run, or somebody is writing it. What was committed before is kept.
        StatisticalRefusal: the ratio or the budget allows no result.
    """
    progress = progress or Progress()
    with open_run(config, progress) as (store, inputs), connect(address, verbose, config.code_folder):
        begin_run(config, inputs, store, sampling=True, training=True)
        for seed_run in seed_runs(config, inputs, store, progress):
            accepted = sample_seed(seed_run)
            train_seed(seed_run, accepted)
        return write_report(config, store)


def sample(
    config: RunConfig, *, address: str | None = None, verbose: bool = False, progress: Progress | None = None
) -> RunResult:
    """The first half of `run`: the ratio and the accepted rows, for `train` to go on with. Raises as `run`."""
    progress = progress or Progress()
    with open_run(config, progress) as (store, inputs), connect(address, verbose, config.code_folder):
        begin_run(config, inputs, store, sampling=True, training=False)
        for seed_run in seed_runs(config, inputs, store, progress):
            sample_seed(seed_run)
        return write_report(config, store)


def train(
    output: str, *, address: str | None = None, verbose: bool = False, progress: Progress | None = None
) -> RunResult:
    """The second half of `run`, on the rows in the directory `output`. Raises as `run`."""
    progress, config = progress or Progress(), stored_config(RunStore(output))
    with open_run(config, progress) as (store, inputs), connect(address, verbose, config.code_folder):
        check_cluster(config, sampling=config.sampling.mode == "stream", training=True)
        check_disk(store.uri, forecast_bytes(config, inputs, training=True), "output")
        for seed_run in seed_runs(config, inputs, store, progress):
            train_seed(seed_run, last_rows(seed_run))
        return write_report(config, store)


def rebuild_report(output: str) -> RunResult:
    """Merge the trials' records and draw report.html again. Raises InputError."""
    store = RunStore(output)
    config = stored_config(store)
    with run_lock(store):
        return write_report(config, store)


@contextmanager
def open_run(config: RunConfig, progress: Progress) -> Iterator[tuple[RunStore, Inputs]]:
    """The run's directory, held against other writers, and the run's images. Raises InputError."""
    store = RunStore(config.output)
    with run_lock(store, progress):
        require_same(store, config)
        if store.exists(CONFIG):
            store.remove_drafts()
            progress.say(f"going on with the run in {store.uri}")
        inputs = prepare(config, progress)
        changed = changed_inputs(store, inputs)
        if changed:
            rule = f"these images are not those that the run in {store.uri} began with"
            raise InputError(changed[0], "(its images)", rule, "restore them, or name another directory")
        yield store, inputs


def require_same(store: RunStore, config: RunConfig) -> None:
    """InputError where the directory holds a run that was configured otherwise, but for what it runs on."""
    if not store.exists(CONFIG):
        return
    found = differences(stored_config(store), config)
    if found:
        rule = f"holds another run: {', '.join(found)}"
        raise InputError("output", store.uri, rule, "restore the configuration, or name another directory")


def prepare(config: RunConfig, progress: Progress | None = None) -> Inputs:
    """Read the images and try everything once, so that what is wrong is refused before anything starts.

    Import paths that the configuration names are told with the files that they led to. Raises InputError.
    """
    if config.code_folder is not None:
        user_code.allow_folder(config.code_folder)
    user_code.LOADED.clear()
    inputs = load_inputs(config)
    preflight(config, inputs)
    for path, file in user_code.LOADED.items():
        (progress or Progress()).say(f"using {path} from {file}")
    if config.code_folder is not None:
        ship_code(config.code_folder)
    return inputs


def changed_inputs(store: RunStore, inputs: Inputs) -> list[str]:
    """The image sets that are not those that the run began with; none where it has not begun."""
    before = store.find_folder(INPUTS, lambda folder: json.loads((folder / DIGESTS).read_text()))
    if before is None:
        return []
    now = inputs.digests()
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def begin_run(config: RunConfig, inputs: Inputs, store: RunStore, sampling: bool, training: bool) -> None:
    """Check cluster and disk, then write down the resolved configuration. Raises InputError."""
    check_cluster(config, sampling, training)
    check_disk(store.uri, forecast_bytes(config, inputs, training), "output")
    if not store.is_intact(INPUTS):
        digests = json.dumps(inputs.digests(), indent=1) + "\n"
        store.commit_folder(INPUTS, lambda folder: (folder / DIGESTS).write_text(digests))
    store.write(CONFIG, dump_config(config))


def check_cluster(config: RunConfig, sampling: bool, training: bool) -> None:
    """Refuse what the cluster cannot hold, and a directory that not all its nodes see. Raises InputError."""
    beside = config.sampling.pool if config.sampling.mode == "stream" else None
    if sampling:
        check_ratio(config.ratio)
        rounds = config.rounds
        if rounds.num_rounds > 1 and rounds.class_prior is not None and config.ratio.leaves_class_prior_open:
            check_ratio(rounds.class_prior, "rounds.class_prior")
        check_pool(config.sampling.pool)
    if training and not (sampling and config.training.wait_seconds):  # else its nodes would idle until then
        check_training(config.training, beside)
    require_shared(RunStore(config.output).uri, "output")
    if config.code_folder is not None:
        require_shared(config.code_folder, "code_folder")


def forecast_bytes(config: RunConfig, inputs: Inputs, training: bool) -> int:
    """What a run may take on disk: the rows wanted, not compressed, and models with the checkpoints before them."""
    rounds, wanted = config.rounds, config.sampling.num_accepted
    rows = wanted + (rounds.num_rounds - 1) * rounds.num_accepted
    if training and config.own_arm != "one_shot" and "one_shot" in arms(config):
        rows += wanted
    models = training_bytes(config, inputs) if training else 0
    row = inputs.source.images[0].nbytes + _ROW_BYTES
    return config.num_seeds * (rows * row + models)


def stored_config(store: RunStore) -> RunConfig:
    """The configuration of an existing run, which may have been moved since. Raises InputError."""
    lines = store.read(CONFIG).decode().splitlines(keepends=True)
    try:
        config = parse_text("".join(line for line in lines if line.strip() not in _SWITCHED_OFF))
    except InputError as err:
        rule = f"its {CONFIG} does not fit this version of rsf_dist ({err})"
        raise InputError("output", store.uri, rule, "use the version that wrote it, or name another directory") from err
    return config.model_copy(update={"output": store.uri})


def write_report(config: RunConfig, store: RunStore) -> RunResult:
    """report.json of all trials, report.html."""
    folders = [seed_folder(number, config.num_seeds) for number in range(config.num_seeds)]
    report = report_json.merge([store.at(folder) for folder in folders], folders)
    report_json.write(store, report)
    write_html(store, store.at(folders[0]), report)
    return RunResult(store, report)


def seed_runs(config: RunConfig, inputs: Inputs, store: RunStore, progress: Progress) -> Iterator[SeedRun]:
    """The run's seeds, one after the other."""
    for number in range(config.num_seeds):
        seed, count = config.seed + number, config.num_seeds
        if count > 1:
            progress.say(f"seed {seed} ({number + 1} of {count})")
        yield SeedRun(config, inputs, store.at(seed_folder(number, count)), seed, progress)


def seed_folder(number: int, num_seeds: int) -> str:
    """Of the number-th seed, within the run's directory."""
    return "" if num_seeds == 1 else f"seeds/{number:03d}"
