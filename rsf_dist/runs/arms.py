"""The training half of a seed run: the run's own arm and the arms to compare, which differ in their rows alone.

    own rows, random proposals, target images with pseudo-labels or labels, …  ->  fine-tuned models  ->  evaluation

All arms that train have equally many rows and optimizer steps. In mode `stream`, target images are not fresh each step.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import get_args

from ray.data import Dataset
from torch import nn

from rsf_dist.builders.components import build_task
from rsf_dist.builders.inputs import Inputs
from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.evaluation import Arm
from rsf_dist.config.resources import Share
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import located
from rsf_dist.evaluation.predictions import predict_all
from rsf_dist.report import report_json, sample_images
from rsf_dist.report.arm_texts import ARMS
from rsf_dist.report.schema import TrainedArm
from rsf_dist.runs import baselines
from rsf_dist.runs.rounds import last_stream, sample_seed
from rsf_dist.runs.seed_run import SeedRun, ratio_folder
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.sampling.stream import RowStream
from rsf_dist.tasks import Task
from rsf_dist.training.trainer import FineTuner, FineTuneResult

MODEL = ""
"""The folder of the run's own model: the seed run's directory itself."""

MADE = "made.json"
"""The file beside an arm's model: the fingerprints of the rows it follows from, and the course of training."""

UNTRAINED = ("pretrained", "batch_norm")
"""The arms that are not fine-tuned."""

_CHECKPOINTS, _CHECKPOINT_MODELS = 3, 3
"""Checkpoints on disk at once, two kept and one being written; models in each: weights and AdamW's two moments."""


def train_seed(seed_run: SeedRun, accepted: AcceptedSet) -> None:
    """Fine-tune on the accepted rows and on the other arms' rows, and evaluate every model on the test images."""
    config, inputs, store = seed_run.config, seed_run.inputs, seed_run.store
    report_json.begin(store, seed_run.seed)
    before = seed_run.starting_model()
    models = {arm: arm_model(seed_run, arm, accepted, before) for arm in arms(config)}
    store.commit_folder(MODEL, lambda folder: seed_run.task().save(models[config.own_arm], folder))
    evaluation = report_json.read(store).evaluation
    if inputs.test is not None and (evaluation is None or evaluation.fingerprint != accepted.fingerprint):
        with seed_run.stage("evaluation", f"evaluating on {len(inputs.test):,} labelled test images"):
            share = Share.of_training(config.training)
            predictions = predict_all(models, inputs.test, share)
            on_source = predict_all(models, inputs.source_test, share)
        sample_images.save_predictions(store, inputs.test, predictions.get("pretrained"), predictions[config.own_arm])
        classes, own_arm = inputs.source.classes, config.own_arm
        evaluation = report_json.describe_evaluation(predictions, on_source, classes, own_arm, accepted.fingerprint)
        report_json.set_evaluation(store, evaluation)


def arms(config: RunConfig) -> list[Arm]:
    """Return the arms to compare, in the order of the report; without test images only the run's own arm."""
    wanted = {config.own_arm, *(config.evaluation.arms if config.evaluation.test else ())}
    return [arm for arm in get_args(Arm) if arm in wanted]


def arm_folder(arm: Arm) -> str:
    """Return the folder of an arm's model within the seed's directory."""
    return f"models/{arm}"


def training_bytes(config: RunConfig, inputs: Inputs) -> int:
    """Return the bytes that the models of one seed may take on disk, with the checkpoints that lead to them."""
    with located("task"):
        task = build_task(config.task, config.model, inputs.source)
    with located("model"):
        model = task.build_model(config.seed)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    tuned = [arm for arm in arms(config) if arm not in UNTRAINED]
    return size * (2 + len(tuned) * (1 + _CHECKPOINTS * _CHECKPOINT_MODELS))  # two: pretrained and the run's own


def arm_model(seed_run: SeedRun, arm: Arm, accepted: AcceptedSet, before: nn.Module) -> nn.Module:
    """Return an arm's model, trained anew if the stored model was trained on other rows."""
    if arm == "pretrained":
        return before
    if arm == "batch_norm":
        target, share = seed_run.inputs.target, Share.of_training(seed_run.config.training)
        return run_in_task(baselines.with_target_statistics, before, target, seed_run.seed, share=share)
    store, folder, task = seed_run.store, arm_folder(arm), seed_run.task()
    kept = store.find_folder(folder, partial(_load_made, task))
    beside = _one_shot_rows(seed_run) if _has_rows_beside(seed_run.config, arm) else None
    fingerprints = (accepted.fingerprint, None if beside is None else beside.fingerprint)
    if kept is None or (kept[0].fingerprint, kept[0].one_shot) != fingerprints:
        tuned, rows = fine_tune(seed_run, arm, accepted, before, beside)
        training = report_json.describe_training(tuned, rows)
        made = TrainedArm(fingerprint=fingerprints[0], one_shot=fingerprints[1], training=training)
        report_json.set_evaluation(store, None)  # it was of another model
        store.commit_folder(folder, partial(_save_made, task, tuned.load_model(), made))
        kept = store.load_folder(folder, partial(_load_made, task))
        if tuned.stream is not None:
            seed_run.progress.say(report_json.format_stream(tuned.stream))
    made, model = kept
    report_json.add_training(store, arm, made.training)
    return model


def _save_made(task: Task, model: nn.Module, made: TrainedArm, folder: Path) -> None:
    task.save(model, folder)
    (folder / MADE).write_text(made.model_dump_json(indent=1) + "\n")


def _load_made(task: Task, folder: Path) -> tuple[TrainedArm, nn.Module]:
    return TrainedArm.model_validate_json((folder / MADE).read_text()), task.load(folder)


def _has_rows_beside(config: RunConfig, arm: Arm) -> bool:
    """Return True for one-shot rejection beside rounds, whose rows do not follow from the accepted rows."""
    return arm == "one_shot" and arm != config.own_arm


def _one_shot_rows(seed_run: SeedRun) -> AcceptedSet:
    """Return the rows of one-shot rejection beside rounds, which are drawn where the seed does not keep them."""
    one = seed_run.one_shot()
    if not one.store.is_intact(ratio_folder(0)):  # the first round's is the same ratio
        one.store.copy_from(ratio_folder(0), seed_run.store)
    return sample_seed(one)


def fine_tune(
    seed_run: SeedRun, arm: Arm, accepted: AcceptedSet, before: nn.Module, beside: AcceptedSet | None = None
) -> tuple[FineTuneResult, int]:
    """Train an arm as all others, from its last checkpoint if it has one. Returns the result, and the number of rows.

    Losses are weighted for the arm `weighted`, and for accepted rows if training.use_row_weights asks for it.

    Args:
        seed_run: the seed run.
        arm: the arm.
        accepted: the accepted rows of the run.
        before: the model before fine-tuning.
        beside: the rows of one-shot rejection beside rounds. None means that they are sampled.
    """
    training, own = seed_run.config.training, arm == seed_run.config.own_arm
    weighted = arm == "weighted" or (training.use_row_weights and arm in ("one_shot", "top_k", "adaptive"))
    rows = arm_rows(seed_run, arm, accepted, before, beside)
    trained_on = [rows_of.fingerprint[:8] for rows_of in (accepted, beside) if rows_of is not None]
    with seed_run.stage(arm, f"fine-tuning on {ARMS[arm].label}"):
        tuner = FineTuner(
            seed_run.task(),
            training.model_copy(update={"use_row_weights": weighted}),
            seed=seed_run.seed,
            initial=before,
            storage_path=seed_run.store.path_for_ray("checkpoints"),
            name="-".join([arm, *trained_on]),
            resume=True,
        )
        if isinstance(rows, RowStream):
            return tuner.fit(rows, accepted.dataset), training.steps * training.batch_size
        return tuner.fit(rows), accepted.report.num_accepted if own else rows.count()


def arm_rows(
    seed_run: SeedRun, arm: Arm, accepted: AcceptedSet, before: nn.Module, beside: AcceptedSet | None = None
) -> Dataset | RowStream:
    """Return the training rows of an arm, as many as of every other arm.

    In mode `stream`, arms of proposals have fresh rows for every step, and arms of target images repeat theirs.
    The parameters are those of `fine_tune`.
    """
    config, inputs, num_rows = seed_run.config, seed_run.inputs, accepted.report.num_accepted
    streaming, fresh = config.sampling.mode == "stream", config.training.steps * config.training.batch_size
    if arm == config.own_arm:
        return last_stream(seed_run, accepted, fresh) if streaming else accepted.dataset
    if arm == "one_shot":
        rows = beside or _one_shot_rows(seed_run)
        return last_stream(seed_run.one_shot(), rows, fresh) if streaming else rows.dataset.limit(num_rows)
    if arm == "random" and streaming:
        return baselines.random_stream(config, seed_run.proposal(), fresh, seed_run.seed)
    if arm == "random":
        return baselines.random_rows(config, seed_run.proposal(), num_rows, seed_run.seed)
    if arm == "weighted":
        proposal = seed_run.proposal()
        count = fresh if streaming else num_rows
        return baselines.weighted_rows(config, proposal, seed_run.ratio(proposal), count, seed_run.seed)
    if arm == "pseudo_labels":
        least = config.evaluation.pseudo_label_confidence
        share = Share.of_training(config.training)
        return baselines.pseudo_labelled_rows(before, inputs.target, least, num_rows, seed_run.seed, share)
    assert inputs.oracle is not None
    if len(inputs.oracle) < num_rows:
        there_are = f"evaluation.oracle has {len(inputs.oracle):,} images for {num_rows:,} rows"
        seed_run.progress.say(f"{there_are}: arm oracle draws them with replacement")
    return baselines.oracle_rows(inputs.oracle, num_rows, seed_run.seed)
