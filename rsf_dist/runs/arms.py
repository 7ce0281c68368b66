"""The training half of a trial: the run's own arm and those it is compared with, alike in all but their rows.

    own rows, proposals at random, target images with pseudo-labels or labels, …  ->  fine-tuned models  ->  verdicts

Rows and optimizer steps are equal for all arms that train; but in mode `stream` target images do not come fresh.
"""

from __future__ import annotations
import json
from functools import partial
from pathlib import Path
from typing import Any, get_args
import ray
from ray.data import Dataset
from torch import nn
from rsf_dist.runs import baselines as controls
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.components import build_task
from rsf_dist.config.evaluation import Arm
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import unwrapped
from rsf_dist.evaluation.predictions import Verdict, classify
from rsf_dist.data.images import ImageSet
from rsf_dist.report import report_json as record, sample_images as samples
from rsf_dist.cluster.workers import confine
from rsf_dist.runs.rounds import last_stream, sample_trial
from rsf_dist.sampling.stream import RowStream
from rsf_dist.tasks import Task
from rsf_dist.training.trainer import FineTuner, FineTuneResult
from rsf_dist.runs.seed_run import Trial, ratio_folder



MODEL = ""
"""The fine-tuned model lies in the trial's directory itself."""


MADE = "made.json"
"""Beside an arm's model: the fingerprint of the accepted rows, and how training went."""


UNTRAINED = ("pretrained", "batch_norm")
"""Arms that are not fine-tuned."""


_CHECKPOINTS, _CHECKPOINT_MODELS = 3, 3
"""At once on disk: two that are kept and one that is being written; the weights and AdamW's two moments in each."""


def train_trial(trial: Trial, accepted: AcceptedSet) -> None:
    """Fine-tune on the accepted rows and on the other arms' rows, and judge every model on the test images."""
    config, inputs, store = trial.config, trial.inputs, trial.store
    record.begin(store, trial.seed)
    before = trial.starting_model()
    models = {arm: arm_model(trial, arm, accepted, before) for arm in arms(config)}
    store.keep(MODEL, lambda folder: trial.task().save(models[config.own_arm], folder))
    judged = record.read(store)["evaluation"]
    if inputs.test is not None and (judged is None or judged["fingerprint"] != accepted.fingerprint):
        with trial.stage("evaluation", f"judging on {len(inputs.test):,} labelled test images"):
            verdicts, on_source = judge(models, inputs.test), judge(models, inputs.source_test)
        samples.save_predictions(store, inputs.test, verdicts.get("pretrained"), verdicts[config.own_arm])
        described = record.describe_evaluation(verdicts, on_source, inputs.source.classes)
        own = {"own_arm": config.own_arm, "fingerprint": accepted.fingerprint}
        record.add(store, evaluation=described | own)


def arms(config: RunConfig) -> list[Arm]:
    """What is compared, in the order in which it is shown; only the run itself where no test images tell."""
    wanted = {config.own_arm, *(config.evaluation.arms if config.evaluation.test else ())}
    return [arm for arm in get_args(Arm) if arm in wanted]


def training_bytes(config: RunConfig, inputs: Inputs) -> int:
    """What the models of one seed may take on disk, with the checkpoints that lead to them."""
    model = build_task(config, inputs.source).build_model(config.seed)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    tuned = [arm for arm in arms(config) if arm not in UNTRAINED]
    return size * (2 + len(tuned) * (1 + _CHECKPOINTS * _CHECKPOINT_MODELS))  # two: pretrained, and the run's own


def arm_model(trial: Trial, arm: Arm, accepted: AcceptedSet, before: nn.Module) -> nn.Module:
    """The arm's model, made anew where that in the store was made of other rows."""
    if arm == "pretrained":
        return before
    if arm == "batch_norm":
        with unwrapped():
            return ray.get(_adapted.remote(before, trial.inputs.target, trial.seed))
    store, folder, task = trial.store, f"models/{arm}", trial.task()
    kept = store.find(folder, partial(_load_made, task))
    if kept is None or kept[0]["fingerprint"] != accepted.fingerprint:
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


def fine_tune(trial: Trial, arm: Arm, accepted: AcceptedSet, before: nn.Module) -> tuple[FineTuneResult, int]:
    """The same training for every arm, from its last checkpoint where it has one; and the number of its rows.

    Weights are those of accepted rows, where training.use_row_weights asks for them, and the ratios of `weighted`.
    """
    training, own = trial.config.training, arm == trial.config.own_arm
    weighted = arm == "weighted" or (training.use_row_weights and arm in ("one_shot", "adaptive"))
    rows = arm_rows(trial, arm, accepted, before)
    with trial.stage(arm, f"fine-tuning: {record.ARMS[arm]}"):
        tuner = FineTuner(
            trial.task(),
            training.model_copy(update={"use_row_weights": weighted}),
            seed=trial.seed,
            initial=before,
            storage_path=trial.store.path_for_ray("checkpoints"),
            name=f"{arm}-{accepted.fingerprint[:8]}",
            resume=True,
        )
        if isinstance(rows, RowStream):
            return tuner.fit(rows, accepted.dataset), training.steps * training.batch_size
        return tuner.fit(rows), accepted.report.num_accepted if own else rows.count()


def arm_rows(trial: Trial, arm: Arm, accepted: AcceptedSet, before: nn.Module) -> Dataset | RowStream:
    """The training rows of an arm, as many for each.

    In mode `stream` arms of proposals have fresh ones for every step, those of target images what there is.
    """
    config, inputs, num_rows = trial.config, trial.inputs, accepted.report.num_accepted
    streaming, fresh = config.sampling.mode == "stream", config.training.steps * config.training.batch_size
    if arm == config.own_arm:
        return last_stream(trial, accepted, fresh) if streaming else accepted.dataset
    if arm == "one_shot":
        one = trial.one_shot()
        if not one.store.holds(ratio_folder(0)):  # the first round's is the same ratio
            one.store.take(ratio_folder(0), trial.store)
        rows = sample_trial(one)
        return last_stream(one, rows, fresh) if streaming else rows.dataset.limit(num_rows)
    if arm == "random" and streaming:
        return controls.random_stream(config, trial.proposal(), fresh, trial.seed)
    if arm == "random":
        return controls.random_rows(config, trial.proposal(), num_rows, trial.seed)
    if arm == "weighted":
        proposal = trial.proposal()
        count = fresh if streaming else num_rows
        return controls.weighted_rows(config, proposal, trial.ratio(proposal), count, trial.seed)
    if arm == "pseudo_labels":
        least = config.evaluation.pseudo_label_confidence
        return controls.pseudo_labelled_rows(before, inputs.target, least, num_rows, trial.seed)
    assert inputs.oracle is not None
    return controls.oracle_rows(inputs.oracle, num_rows, trial.seed)


def judge(models: dict[Arm, nn.Module], images: ImageSet | None) -> dict[Arm, Verdict]:
    """Each model's verdict on labelled images; none without images."""
    if images is None:
        return {}
    with unwrapped():
        return ray.get(_classify.remote(models, images))


@ray.remote
def _adapted(model: nn.Module, target: ImageSet, seed: int) -> nn.Module:
    confine()
    return controls.with_target_statistics(model, target, seed)


@ray.remote
def _classify(models: dict[Arm, nn.Module], images: ImageSet) -> dict[Arm, Verdict]:
    confine()
    return {name: classify(model, images) for name, model in models.items()}
