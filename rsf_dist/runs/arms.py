"""The training half of a trial: the run's own arm and those it is compared with, alike in all but their rows.

    own rows, proposals at random, target images with pseudo-labels or labels, …  ->  fine-tuned models  ->  verdicts

Rows and optimizer steps are equal for all arms that train; but in mode `stream` target images do not come fresh.
"""

from __future__ import annotations
from functools import partial
from pathlib import Path
from typing import get_args
import ray
from ray.data import Dataset
from torch import nn
from rsf_dist.runs import baselines
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.components import build_task
from rsf_dist.config.evaluation import Arm
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import unwrapped
from rsf_dist.evaluation.predictions import Predictions, predict
from rsf_dist.data.images import ImageSet
from rsf_dist.report import report_json, sample_images
from rsf_dist.report.arm_texts import ARMS
from rsf_dist.report.schema import TrainedArm
from rsf_dist.cluster.workers import limit_to_allocation
from rsf_dist.runs.rounds import last_stream, sample_seed
from rsf_dist.sampling.stream import RowStream
from rsf_dist.tasks import Task
from rsf_dist.training.trainer import FineTuner, FineTuneResult
from rsf_dist.runs.seed_run import SeedRun, ratio_folder



MODEL = ""
"""The fine-tuned model lies in the trial's directory itself."""


MADE = "made.json"
"""Beside an arm's model: the fingerprint of the accepted rows, and how training went."""


UNTRAINED = ("pretrained", "batch_norm")
"""Arms that are not fine-tuned."""


_CHECKPOINTS, _CHECKPOINT_MODELS = 3, 3
"""At once on disk: two that are kept and one that is being written; the weights and AdamW's two moments in each."""


def train_seed(seed_run: SeedRun, accepted: AcceptedSet) -> None:
    """Fine-tune on the accepted rows and on the other arms' rows, and judge every model on the test images."""
    config, inputs, store = seed_run.config, seed_run.inputs, seed_run.store
    report_json.begin(store, seed_run.seed)
    before = seed_run.starting_model()
    models = {arm: arm_model(seed_run, arm, accepted, before) for arm in arms(config)}
    store.commit_folder(MODEL, lambda folder: seed_run.task().save(models[config.own_arm], folder))
    evaluation = report_json.read(store).evaluation
    if inputs.test is not None and (evaluation is None or evaluation.fingerprint != accepted.fingerprint):
        with seed_run.stage("evaluation", f"judging on {len(inputs.test):,} labelled test images"):
            verdicts, on_source = predict_all(models, inputs.test), predict_all(models, inputs.source_test)
        sample_images.save_predictions(store, inputs.test, verdicts.get("pretrained"), verdicts[config.own_arm])
        classes, own_arm = inputs.source.classes, config.own_arm
        evaluation = report_json.describe_evaluation(verdicts, on_source, classes, own_arm, accepted.fingerprint)
        report_json.set_evaluation(store, evaluation)


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


def arm_model(seed_run: SeedRun, arm: Arm, accepted: AcceptedSet, before: nn.Module) -> nn.Module:
    """The arm's model, made anew where that in the store was made of other rows."""
    if arm == "pretrained":
        return before
    if arm == "batch_norm":
        with unwrapped():
            return ray.get(_adapted.remote(before, seed_run.inputs.target, seed_run.seed))
    store, folder, task = seed_run.store, f"models/{arm}", seed_run.task()
    kept = store.find_folder(folder, partial(_load_made, task))
    if kept is None or kept[0].fingerprint != accepted.fingerprint:
        tuned, rows = fine_tune(seed_run, arm, accepted, before)
        made = TrainedArm(
            fingerprint=accepted.fingerprint, training=report_json.describe_training(tuned, rows)
        )
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


def fine_tune(seed_run: SeedRun, arm: Arm, accepted: AcceptedSet, before: nn.Module) -> tuple[FineTuneResult, int]:
    """The same training for every arm, from its last checkpoint where it has one; and the number of its rows.

    Weights are those of accepted rows, where training.use_row_weights asks for them, and the ratios of `weighted`.
    """
    training, own = seed_run.config.training, arm == seed_run.config.own_arm
    weighted = arm == "weighted" or (training.use_row_weights and arm in ("one_shot", "adaptive"))
    rows = arm_rows(seed_run, arm, accepted, before)
    with seed_run.stage(arm, f"fine-tuning on {ARMS[arm].label}"):
        tuner = FineTuner(
            seed_run.task(),
            training.model_copy(update={"use_row_weights": weighted}),
            seed=seed_run.seed,
            initial=before,
            storage_path=seed_run.store.path_for_ray("checkpoints"),
            name=f"{arm}-{accepted.fingerprint[:8]}",
            resume=True,
        )
        if isinstance(rows, RowStream):
            return tuner.fit(rows, accepted.dataset), training.steps * training.batch_size
        return tuner.fit(rows), accepted.report.num_accepted if own else rows.count()


def arm_rows(seed_run: SeedRun, arm: Arm, accepted: AcceptedSet, before: nn.Module) -> Dataset | RowStream:
    """The training rows of an arm, as many for each.

    In mode `stream` arms of proposals have fresh ones for every step, those of target images what there is.
    """
    config, inputs, num_rows = seed_run.config, seed_run.inputs, accepted.report.num_accepted
    streaming, fresh = config.sampling.mode == "stream", config.training.steps * config.training.batch_size
    if arm == config.own_arm:
        return last_stream(seed_run, accepted, fresh) if streaming else accepted.dataset
    if arm == "one_shot":
        one = seed_run.one_shot()
        if not one.store.is_intact(ratio_folder(0)):  # the first round's is the same ratio
            one.store.copy_from(ratio_folder(0), seed_run.store)
        rows = sample_seed(one)
        return last_stream(one, rows, fresh) if streaming else rows.dataset.limit(num_rows)
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
        return baselines.pseudo_labelled_rows(before, inputs.target, least, num_rows, seed_run.seed)
    assert inputs.oracle is not None
    return baselines.oracle_rows(inputs.oracle, num_rows, seed_run.seed)


def predict_all(models: dict[Arm, nn.Module], images: ImageSet | None) -> dict[Arm, Predictions]:
    """Each model's verdict on labelled images; none without images."""
    if images is None:
        return {}
    with unwrapped():
        return ray.get(_classify.remote(models, images))


@ray.remote
def _adapted(model: nn.Module, target: ImageSet, seed: int) -> nn.Module:
    limit_to_allocation()
    return baselines.with_target_statistics(model, target, seed)


@ray.remote
def _classify(models: dict[Arm, nn.Module], images: ImageSet) -> dict[Arm, Predictions]:
    limit_to_allocation()
    return {name: predict(model, images) for name, model in models.items()}
