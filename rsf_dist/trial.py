"""One seed of a run, stage by stage; what a stage has left in the run's directory is not done again.

    ratio -> accepted rows -> fine-tuned model, beside the other arms

What is kept: the ratio, the pilot and the accepted rows as they come, each arm's model, and the record of all of it in
report.json. A stage is a function of the configuration, the seed and what came before, so that what was lost or damaged
is made again, and comes out the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.data import Dataset
from torch import nn

from rsf_dist.accepted import AcceptedSet
from rsf_dist.build import Inputs, build_proposal, build_task
from rsf_dist.config import OptimizerConfig, RunConfig
from rsf_dist.controls import oracle_rows, random_rows, random_stream
from rsf_dist.errors import RsfError, unwrapped
from rsf_dist.evaluation import Verdict, classify
from rsf_dist.fitting import make_ratio
from rsf_dist.images import ImageSet
from rsf_dist.judging import judge_round
from rsf_dist.pretraining import pretrain
from rsf_dist.progress import Progress
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import Ratio
from rsf_dist.report import record, samples
from rsf_dist.report.trust import card_in_words
from rsf_dist.resources import confine
from rsf_dist.rounds import round_sampler
from rsf_dist.sampler import RejectionSampler
from rsf_dist.store import RunStore
from rsf_dist.stream import Cursor, RowStream
from rsf_dist.tasks import Task
from rsf_dist.trainer import FineTuner, FineTuneResult

RATIO = "rounds/000/ratio"
PILOT = "rounds/000/pilot"
MODEL = ""
"""The fine-tuned model lies in the trial's directory itself."""
MADE = "made.json"
"""Beside an arm's model: the fingerprint of the accepted rows, and how training went."""

_CHECKPOINTS, _CHECKPOINT_MODELS = 3, 3
"""At once on disk: two that are kept and one that is being written; the weights and AdamW's two moments in each."""


@dataclass(frozen=True)
class Trial:
    """One seed of a run.

    Args:
        config, inputs: of the run.
        store: the trial's own directory: the run's, or one within it.
        seed: the trial's.
        progress: who is told.
    """

    config: RunConfig
    inputs: Inputs
    store: RunStore
    seed: int
    progress: Progress
    _at_hand: list[Ratio] = field(default_factory=list, repr=False, compare=False)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announce a stage and record its seconds, also where it is interrupted."""
        self.progress.say(text)
        started = time.monotonic()
        try:
            yield
        finally:
            with suppress(RsfError):  # of a disk that is full; what ended the stage is to be told
                record.add_seconds(self.store, name, time.monotonic() - started)

    def proposal(self) -> Proposal:
        """What is sampled from; a relative ratio samples from its mixture."""
        return build_proposal(self.config.proposal, self.inputs.source)

    def ratio(self, proposal: Proposal) -> Ratio:
        """As the trial keeps it; made first where it does not."""
        config, store = self.config.ratio, self.store
        if self._at_hand or store.holds(RATIO):
            return self.stored_ratio(proposal)
        with self.stage("ratio", f"making the {config.kind} ratio: {len(self.inputs.target):,} target images"):
            made = make_ratio(config, self.inputs, proposal, self.seed, store.path_for_ray("checkpoints"))
            save = getattr(made, "save", None)
            store.keep(RATIO, save or (lambda folder: None))
        if save is None:  # it cannot be read back, and what makes it may have learned for long
            self._at_hand.append(made)
        return self.stored_ratio(proposal)

    def stored_ratio(self, proposal: Proposal) -> Ratio:
        """The ratio that the trial keeps. Raises InputError where there is none, or a damaged one."""
        if not self._at_hand:
            self._at_hand.append(self.store.fetch(RATIO, partial(self._ratio_in, proposal)))
        return self._at_hand[0]

    def _ratio_in(self, proposal: Proposal, folder: Path) -> Ratio:
        return make_ratio(self.config.ratio, self.inputs, proposal, self.seed, saved=folder)

    def sampler(self, proposal: Proposal, ratio: Ratio) -> RejectionSampler:
        """What samples the trial's rows."""
        return round_sampler(self.config, proposal, ratio, self.seed, self.store)


def sample_trial(trial: Trial) -> AcceptedSet:
    """Fit the ratio, sample, and judge what was accepted."""
    config, inputs, store = trial.config, trial.inputs, trial.store
    record.begin(store, trial.seed)
    proposal = trial.proposal()
    ratio = trial.ratio(proposal)
    wanted = config.sampling.num_accepted
    with trial.stage("sampling", f"sampling until {wanted:,} rows are accepted"):
        accepted = trial.sampler(proposal, ratio).sample(wanted, progress=trial.progress)
    if record.has_round(store, accepted.fingerprint):
        return accepted
    with trial.stage("two_sample", "comparing proposals and accepted rows with held-out target images"):
        judged = judge_round(ratio, proposal, accepted, inputs.target.images, config.evaluation.judge, trial.seed)
    described = record.describe_round(accepted, ratio, judged)
    samples.save(store, proposal, accepted, inputs, trial.seed)
    record.add(store, rounds=[described])
    trial.progress.say(record.round_in_words(described))
    trial.progress.say(card_in_words(described["trust"]))
    return accepted


def train_trial(trial: Trial, accepted: AcceptedSet) -> None:
    """Fine-tune on the accepted rows and on the other arms' rows, and judge every model on the test images."""
    config, inputs, store = trial.config, trial.inputs, trial.store
    record.begin(store, trial.seed)
    before = starting_model(trial)
    models = {arm: arm_model(trial, arm, accepted, before) for arm in arms(config)}
    store.keep(MODEL, lambda folder: build_task(config, inputs.source).save(models["one_shot"], folder))
    judged = record.read(store)["evaluation"]
    if inputs.test is not None and (judged is None or judged["fingerprint"] != accepted.fingerprint):
        with trial.stage("evaluation", f"judging on {len(inputs.test):,} labelled test images"):
            verdicts, on_source = judge(models, inputs.test), judge(models, inputs.source_test)
        samples.save_predictions(store, inputs.test, verdicts)
        described = record.describe_evaluation(verdicts, on_source, inputs.source.classes)
        record.add(store, evaluation={**described, "fingerprint": accepted.fingerprint})


def arms(config: RunConfig) -> list[str]:
    """What is compared; nothing but the run itself where no test images tell."""
    return list(config.evaluation.arms) if config.evaluation.test else ["one_shot"]


def training_bytes(config: RunConfig, inputs: Inputs) -> int:
    """What the models of one seed may take on disk, with the checkpoints that lead to them."""
    model = build_task(config, inputs.source).build_model(config.seed)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    tuned = [arm for arm in arms(config) if arm != "pretrained"]
    return size * (2 + len(tuned) * (1 + _CHECKPOINTS * _CHECKPOINT_MODELS))  # two: pretrained, and the run's own


def starting_model(trial: Trial) -> nn.Module:
    """With its configured weights, trained on the source images first where `pretrain` says so."""
    config, inputs, seed = trial.config, trial.inputs, trial.seed
    task = build_task(config, inputs.source)
    if config.pretrain is None:
        return task.build_model(seed)

    folder = "models/pretrained"
    kept = trial.store.find(folder, task.load)
    if kept is None:
        with trial.stage("pretraining", "the model before fine-tuning"), unwrapped():
            made = ray.get(_pretrain.remote(task, inputs.source, config.pretrain, seed))
        trial.store.keep(folder, lambda at: task.save(made, at))
        kept = trial.store.fetch(folder, task.load)
    return kept


def arm_model(trial: Trial, arm: str, accepted: AcceptedSet, before: nn.Module) -> nn.Module:
    """The arm's fine-tuned model, made anew where that in the store was made of other rows."""
    if arm == "pretrained":
        return before
    store, folder, task = trial.store, f"models/{arm}", build_task(trial.config, trial.inputs.source)
    kept = store.find(folder, partial(_load_made, task))
    if kept is None or kept[0]["fingerprint"] != accepted.fingerprint:
        with trial.stage(arm, f"fine-tuning: {record.ARMS[arm]}"):
            tuned, rows = fine_tune(trial, arm, accepted, before)
        described = {"rows": rows, **record.describe_training(tuned)}
        made = {"fingerprint": accepted.fingerprint, "training": record.finite(described)}
        store.keep(folder, partial(_save_made, task, tuned.load_model(), made))
        kept = store.fetch(folder, partial(_load_made, task))
        if tuned.stream is not None:
            trial.progress.say(record.stream_in_words(tuned.stream))
    made, model = kept
    record.add(store, training={arm: made["training"]})
    return model


def _save_made(task: Task, model: nn.Module, made: dict[str, Any], folder: Path) -> None:
    task.save(model, folder)
    (folder / MADE).write_text(json.dumps(made, indent=1) + "\n")


def _load_made(task: Task, folder: Path) -> tuple[dict[str, Any], nn.Module]:
    return json.loads((folder / MADE).read_text()), task.load(folder)


def fine_tune(trial: Trial, arm: str, accepted: AcceptedSet, initial: nn.Module) -> tuple[FineTuneResult, int]:
    """The same training for every arm, from its last checkpoint where it has one; and the number of its rows.

    Only accepted rows have weights.
    """
    training = trial.config.training
    if arm != "one_shot":
        training = training.model_copy(update={"use_row_weights": False})
    tuner = FineTuner(
        build_task(trial.config, trial.inputs.source),
        training,
        seed=trial.seed,
        initial=initial,
        storage_path=trial.store.path_for_ray("checkpoints"),
        name=f"{arm}-{accepted.fingerprint[:8]}",
        resume=True,
    )
    if arm == "oracle" or trial.config.sampling.mode == "store":
        rows = stored_rows(trial, arm, accepted)
        tuned = tuner.fit(rows)
        return tuned, accepted.report.num_accepted if arm == "one_shot" else rows.count()
    tuned = tuner.fit(streamed_rows(trial, arm, accepted), accepted.dataset)
    return tuned, trial.config.training.steps * trial.config.training.batch_size


def stored_rows(trial: Trial, arm: str, accepted: AcceptedSet) -> Dataset:
    """The training rows of an arm, as many for each."""
    num_rows = accepted.report.num_accepted
    if arm == "random":
        return random_rows(trial.config, trial.proposal(), num_rows, trial.seed)
    if arm == "oracle":
        assert trial.inputs.oracle is not None
        return oracle_rows(trial.inputs.oracle, num_rows, trial.seed)
    return accepted.dataset


def streamed_rows(trial: Trial, arm: str, accepted: AcceptedSet) -> RowStream:
    """Fresh rows for every step of an arm; those accepted by rejection come after the stored ones."""
    training, proposal = trial.config.training, trial.proposal()
    num_rows = training.steps * training.batch_size
    if arm == "random":
        return random_stream(trial.config, proposal, num_rows, trial.seed)
    sampler = trial.sampler(proposal, trial.stored_ratio(proposal))
    return sampler.row_stream(num_rows, after=Cursor.after(accepted))


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
