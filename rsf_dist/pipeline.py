"""Config in, run directory out.

    config -> inputs -> for each seed:  ratio -> accepted rows -> fine-tuned model, beside the other arms -> report

Each seed is a trial with a directory of its own: the run's, or, where there are several, seeds/000, seeds/001, …
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import Dataset
from torch import nn

from rsf_dist import user_code
from rsf_dist.accepted import AcceptedSet
from rsf_dist.build import Inputs, build_proposal, build_task, load_inputs
from rsf_dist.config import OptimizerConfig, RunConfig, dump_config, parse_text
from rsf_dist.controls import oracle_rows, random_rows
from rsf_dist.errors import InputError, unwrapped
from rsf_dist.evaluation import Verdict, classify
from rsf_dist.fitting import make_ratio
from rsf_dist.images import ImageSet
from rsf_dist.judging import judge_round
from rsf_dist.models import load_network
from rsf_dist.pretraining import pretrain
from rsf_dist.progress import Progress
from rsf_dist.ratios import RelativeRatio
from rsf_dist.report import record, samples
from rsf_dist.report.html import write_html
from rsf_dist.report.trust import card_in_words
from rsf_dist.resources import check_pool, check_ratio, check_training, cluster, confine, require_shared, ship_code
from rsf_dist.rounds import sample_round
from rsf_dist.store import MANIFEST, RunStore
from rsf_dist.tasks import Task
from rsf_dist.trainer import FineTuner, FineTuneResult
from rsf_dist.tryout import try_out

CONFIG = "config.yaml"


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
        with tempfile.TemporaryDirectory() as folder:
            for name in ("model.safetensors", "model.json"):
                data = self.store.at(trial_folder(number, len(seeds))).read(name)
                (Path(folder) / name).write_bytes(data)
            return load_network(Path(folder))


def run(
    config: RunConfig, *, address: str | None = None, verbose: bool = False, progress: Progress | None = None
) -> RunResult:
    """The main job, whole: sample, fine-tune, compare, report.

    Args:
        config: see `load_config`.
        address: of a Ray cluster; None: the one joined already, RAY_ADDRESS's, or one of its own while it runs.
        verbose: show the workers' output.
        progress: who is told.

    Raises:
        InputError: something in the configuration, its files or the cluster does not fit; nothing was drawn.
        StatisticalRefusal: the ratio or the budget allows no result.
    """
    inputs = prepare(config)
    with cluster(address, verbose, config.code):
        store = create(config, sampling=True, training=True)
        for trial in trials(config, inputs, store, progress or Progress()):
            accepted = sample_trial(trial)
            train_trial(trial, accepted)
        return finish(config, store)


def sample(
    config: RunConfig, *, address: str | None = None, verbose: bool = False, progress: Progress | None = None
) -> RunResult:
    """The first half of `run`: the ratio and the accepted rows, for `train` to go on with. Raises as `run`."""
    inputs = prepare(config)
    with cluster(address, verbose, config.code):
        store = create(config, sampling=True, training=False)
        for trial in trials(config, inputs, store, progress or Progress()):
            sample_trial(trial)
        return finish(config, store)


def train(
    output: str, *, address: str | None = None, verbose: bool = False, progress: Progress | None = None
) -> RunResult:
    """The second half of `run`, on the rows in the directory `output`. Raises as `run`."""
    store = RunStore(output)
    config = stored_config(store)
    inputs = prepare(config)
    with cluster(address, verbose, config.code):
        check_cluster(config, sampling=False, training=True)
        for trial in trials(config, inputs, store, progress or Progress()):
            train_trial(trial, AcceptedSet.load(trial.store))
        return finish(config, store)


def rebuild_report(output: str) -> RunResult:
    """Merge the trials' records and draw report.html again. Raises InputError."""
    store = RunStore(output)
    return finish(stored_config(store), store)


def prepare(config: RunConfig) -> Inputs:
    """Read the images and try everything once, so that what is wrong is refused before anything starts."""
    if config.code is not None:
        user_code.allow_folder(config.code)
    inputs = load_inputs(config)
    try_out(config, inputs)
    if config.code is not None:
        ship_code(config.code)
    return inputs


def check_cluster(config: RunConfig, sampling: bool, training: bool) -> None:
    """Refuse what the cluster cannot hold, and a directory that not all its nodes see. Raises InputError."""
    if sampling:
        check_ratio(config.ratio)
        check_pool(config.sampling.pool)
    if training and not (sampling and config.training.wait_seconds):  # else its nodes would idle until then
        check_training(config.training)
    require_shared(RunStore(config.output).uri, "output")
    if config.code is not None:
        require_shared(config.code, "code")


def create(config: RunConfig, sampling: bool, training: bool) -> RunStore:
    """The run's directory, with the resolved configuration; the cluster is checked first. Raises InputError."""
    try:
        store = require_new(config)
        check_cluster(config, sampling, training)
        store.write(CONFIG, dump_config(config))
    except OSError as err:
        raise InputError("output", config.output, f"cannot be written ({err})", "name another directory") from err
    return store


def require_new(config: RunConfig) -> RunStore:
    """The directory to be. Raises InputError where there is a run already."""
    store = RunStore(config.output)
    if store.exists(MANIFEST) or store.exists(f"seeds/000/{MANIFEST}"):  # before that, nothing was committed
        raise InputError("output", config.output, "holds a run already", "name another directory, or remove that one")
    return store


def stored_config(store: RunStore) -> RunConfig:
    """The configuration of an existing run, which may have been moved since. Raises InputError."""
    return parse_text(store.read(CONFIG).decode()).model_copy(update={"output": store.uri})


def finish(config: RunConfig, store: RunStore) -> RunResult:
    """report.json of all trials, report.html."""
    folders = [trial_folder(number, config.num_seeds) for number in range(config.num_seeds)]
    report = record.merge([store.at(folder) for folder in folders], folders)
    record.write(store, report)
    write_html(store, store.at(folders[0]), report)
    return RunResult(store, report)


@dataclass(frozen=True)
class Trial:
    """One seed of a run."""

    config: RunConfig
    inputs: Inputs
    store: RunStore
    seed: int
    progress: Progress

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announce a stage and record its seconds."""
        self.progress.say(text)
        started = time.monotonic()
        yield
        record.add(self.store, seconds={name: round(time.monotonic() - started, 2)})


def trials(config: RunConfig, inputs: Inputs, store: RunStore, progress: Progress) -> Iterator[Trial]:
    """The run's seeds, one after the other."""
    for number in range(config.num_seeds):
        seed, count = config.seed + number, config.num_seeds
        if count > 1:
            progress.say(f"seed {seed} ({number + 1} of {count})")
        yield Trial(config, inputs, store.at(trial_folder(number, count)), seed, progress)


def trial_folder(number: int, num_seeds: int) -> str:
    """Of the number-th seed, within the run's directory."""
    return "" if num_seeds == 1 else f"seeds/{number:03d}"


def sample_trial(trial: Trial) -> AcceptedSet:
    """Fit the ratio, sample, and store both."""
    config, inputs, store = trial.config, trial.inputs, trial.store
    proposal = build_proposal(config.proposal, inputs.source)
    record.start(store, trial.seed)
    with trial.stage("ratio", f"making the {config.ratio.kind} ratio: {len(inputs.target):,} target images"):
        ratio = make_ratio(config.ratio, inputs, proposal, trial.seed, store.path_for_ray("checkpoints"))
        if hasattr(ratio, "save"):
            store.upload_with("rounds/000/ratio", ratio.save)
    drawn_from = ratio.mixture if isinstance(ratio, RelativeRatio) else proposal
    with trial.stage("sampling", f"sampling until {config.sampling.num_accepted:,} rows are accepted"):
        accepted = sample_round(config, drawn_from, ratio, trial.seed, store, progress=trial.progress)
    with trial.stage("two_sample", "comparing proposals and accepted rows with held-out target images"):
        judged = judge_round(ratio, proposal, accepted, inputs.target.images, config.evaluation.judge, trial.seed)
    described = record.describe_round(accepted, ratio, judged)
    record.add(store, rounds=[described])
    trial.progress.say(record.round_in_words(described))
    trial.progress.say(card_in_words(described["trust"]))
    samples.save(store, proposal, accepted, inputs, trial.seed)
    return accepted


def train_trial(trial: Trial, accepted: AcceptedSet) -> None:
    """Fine-tune on the accepted rows and on the other arms' rows, and judge every model on the test images."""
    config, inputs = trial.config, trial.inputs
    with trial.stage("pretraining", "the model before fine-tuning"):
        before = starting_model(config, inputs, trial.seed)
    models = {}
    for arm in arms(config):
        if arm == "pretrained":
            models[arm] = before
        else:
            with trial.stage(arm, f"fine-tuning: {record.ARMS[arm]}"):
                rows = arm_rows(trial, arm, accepted)
                tuned = fine_tune(trial, arm, rows, before)
            record.add(trial.store, training={arm: {"rows": rows.count(), **record.describe_training(tuned)}})
            models[arm] = tuned.load_model()
    trial.store.upload_with("", lambda folder: build_task(config, inputs.source).save(models["one_shot"], folder))
    if inputs.test is not None:
        with trial.stage("evaluation", f"judging on {len(inputs.test):,} labelled test images"):
            verdicts, on_source = judge(models, inputs.test), judge(models, inputs.source_test)
        record.add(trial.store, evaluation=record.describe_evaluation(verdicts, on_source, inputs.source.classes))
        samples.save_predictions(trial.store, inputs.test, verdicts)


def arms(config: RunConfig) -> list[str]:
    """What is compared; nothing but the run itself where no test images tell."""
    return list(config.evaluation.arms) if config.evaluation.test else ["one_shot"]


def starting_model(config: RunConfig, inputs: Inputs, seed: int) -> nn.Module:
    """With its configured weights, trained on the source images first where `pretrain` says so."""
    task = build_task(config, inputs.source)
    if config.pretrain is None:
        return task.build_model(seed)
    with unwrapped():
        return ray.get(_pretrain.remote(task, inputs.source, config.pretrain, seed))


def arm_rows(trial: Trial, arm: str, accepted: AcceptedSet) -> Dataset:
    """The training rows of an arm, as many for each."""
    num_rows = accepted.report.num_accepted
    if arm == "random":
        proposal = build_proposal(trial.config.proposal, trial.inputs.source)
        return random_rows(trial.config, proposal, num_rows, trial.seed)
    if arm == "oracle":
        assert trial.inputs.oracle is not None
        return oracle_rows(trial.inputs.oracle, num_rows, trial.seed)
    return accepted.dataset


def fine_tune(trial: Trial, arm: str, rows: Dataset, initial: nn.Module) -> FineTuneResult:
    """The same training for every arm; only accepted rows have weights."""
    training = trial.config.training
    if arm != "one_shot":
        training = training.model_copy(update={"use_row_weights": False})
    tuner = FineTuner(
        build_task(trial.config, trial.inputs.source),
        training,
        seed=trial.seed,
        initial=initial,
        storage_path=trial.store.path_for_ray("checkpoints"),
        name=arm,
    )
    return tuner.fit(rows)


def judge(models: dict[str, nn.Module], images: ImageSet | None) -> dict[str, Verdict]:
    """Each model's verdict on labelled images; none without images."""
    if images is None:
        return {}
    with unwrapped():
        return ray.get(_classify.remote(models, images))


@ray.remote
def _pretrain(task: Task, source: ImageSet, config: OptimizerConfig, seed: int) -> nn.Module:
    confine()
    return pretrain(task, source, config, seed)


@ray.remote
def _classify(models: dict[str, nn.Module], images: ImageSet) -> dict[str, Verdict]:
    confine()
    return {name: classify(model, images) for name, model in models.items()}
