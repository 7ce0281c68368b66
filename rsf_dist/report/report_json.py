"""report.json of a seed and of a run: each stage adds its entry when it is done; at the end the seeds' are merged."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

from pydantic import ValidationError

from rsf_dist.config.evaluation import Arm
from rsf_dist.errors import InputError
from rsf_dist.evaluation.predictions import Predictions, gap_closed
from rsf_dist.evaluation.two_sample import TwoSample
from rsf_dist.ratios import Ratio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.info import info_of
from rsf_dist.report.schema import (
    ClassPriorEntry,
    ClassPriorEstimate,
    Evaluation,
    ParameterQuantiles,
    RatioEntry,
    Report,
    RoundEntry,
    TrainingEntry,
    TwoSampleTests,
    finite,
)
from rsf_dist.report.trust_card import trust_card
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.sampling.report import SamplingReport
from rsf_dist.storage.run_store import RunStore
from rsf_dist.training.state import StreamReport
from rsf_dist.training.trainer import FineTuneResult

REPORT = "report.json"

ONE_SHOT = "one_shot"
"""The folder of one-shot rejection beside rounds, within a seed's."""

_LIBRARIES = ("rsf-dist", "ray", "torch", "torchvision", "numpy", "pyarrow")


def begin(store: RunStore, seed: int) -> None:
    """Write an empty report, unless the store has a readable one."""
    if store.exists(REPORT) and _parse(store.read(REPORT)) is not None:
        return
    versions = {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
    write(store, Report(versions=versions, seeds=[seed]))


def read(store: RunStore) -> Report:
    """Return the report. Raises InputError where it is missing or damaged."""
    report = _parse(store.read(REPORT))
    if report is None:
        raise InputError(REPORT, store.uri, "is damaged", "run it again with the same configuration: it is made again")
    return report


def _parse(data: bytes) -> Report | None:
    try:
        return Report.model_validate_json(data)
    except ValidationError:
        return None


def write(store: RunStore, report: Report) -> None:
    """Replace the report, atomically."""
    store.write(REPORT, report.model_dump_json(indent=2) + "\n")


def add_seconds(store: RunStore, stage: str, seconds: float) -> None:
    """Add to the seconds that a stage took, over all attempts at it."""
    report = read(store)
    report.seconds[stage] = round(report.seconds.get(stage, 0.0) + seconds, 2)
    write(store, report)


def add_round(store: RunStore, entry: RoundEntry) -> None:
    """Put a round's entry in its place. Entries of later rounds, which rest on other rows, are removed."""
    report = read(store)
    report.rounds = [*(earlier for earlier in report.rounds if earlier.round < entry.round), entry]
    write(store, report)


def add_training(store: RunStore, arm: Arm, entry: TrainingEntry) -> None:
    """Add or replace the entry of an arm's training."""
    report = read(store)
    report.training[arm] = entry
    write(store, report)


def set_evaluation(store: RunStore, evaluation: Evaluation | None) -> None:
    """Replace the evaluation. None means that there is none any more."""
    report = read(store)
    report.evaluation = evaluation
    write(store, report)


def last_round(store: RunStore) -> RoundEntry:
    """Return the entry of the round whose rows are trained on. Raises InputError where there is none yet."""
    rounds = read(store).rounds
    if not rounds or not rounds[-1].last:
        raise InputError("run", store.uri, "has no accepted rows to train on", "sample them first: rsf sample")
    return rounds[-1]


def has_round(store: RunStore, fingerprint: str) -> bool:
    """Return True if the report has a round with these rows."""
    return any(entry.fingerprint == fingerprint for entry in read(store).rounds)


def merge(stores: Sequence[RunStore], folders: Sequence[str]) -> Report:
    """Return the first seed's report with the seeds, red checks and evaluations of all.

    Args:
        stores: the seeds' directories.
        folders: where these are, relative to the run's directory.

    Raises:
        InputError: a seed's report is missing or damaged, or its last round is not done.
    """
    reports = [read(store) for store in stores]
    for store, report in zip(stores, reports, strict=True):
        if not report.rounds or not report.rounds[-1].last:
            raise InputError("run", store.uri, "has no accepted rows to report on", "run it again")
    red = [[check.name for check in report.rounds[-1].trust if check.light == "red"] for report in reports]
    seeds = [seed for report in reports for seed in report.seeds]
    evaluations = [report.evaluation for report in reports if report.evaluation is not None]
    together = _merged(evaluations) if len(evaluations) == len(reports) else None  # else seeds that were only sampled
    own = {"red": red, "seeds": seeds, "folders": list(folders), "evaluation": together}
    return reports[0].model_copy(update=own | {"taken_over": _taken_over(stores, seeds)})


def _taken_over(stores: Sequence[RunStore], seeds: Sequence[int]) -> str | None:
    """Return a line on the stages that were taken over from earlier runs; None where there are none.

    The seeds are named of a stage that not all of them took over alike.
    """
    named: dict[str, dict[str, list[int]]] = {}
    for store, seed in zip(stores, seeds, strict=True):
        for run, stage in (*_taken_by(store, ""), *_taken_by(store.at(ONE_SHOT), f"{ONE_SHOT}/")):
            named.setdefault(run, {}).setdefault(stage, []).append(seed)
    parts = [
        f"taken over from {run}: {', '.join(stage + _of_seeds(of, seeds) for stage, of in by_stage.items())}"
        for run, by_stage in named.items()
    ]
    return "; ".join(parts) or None


def _taken_by(store: RunStore, within: str) -> Iterator[tuple[str, str]]:
    """Yield the earlier run and the name of each stage that was taken over into a directory."""
    manifest = store.manifest()
    for name, taken in manifest.taken_over.items():
        progress = None if taken.round is None else manifest.rounds.get(taken.round)
        drawn = "" if progress is None else f" ({taken.chunks:,} of {progress.chunks:,} chunks)"
        yield taken.run, within + name + drawn


def _of_seeds(some: Sequence[int], all_seeds: Sequence[int]) -> str:
    if len(some) == len(all_seeds):
        return ""
    return f" of seed{'s' if len(some) > 1 else ''} {' and '.join(map(str, some))}"


def _merged(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the first evaluation with the values of all seeds."""
    first = evaluations[0]
    arms = {arm: [value for one in evaluations for value in one.arms[arm]] for arm in first.arms}
    source = {arm: [value for one in evaluations for value in one.source[arm]] for arm in first.source}
    return first.model_copy(update={"arms": arms, "source": source, "gap_closed": _gap_closed(arms)})


def _gap_closed(arms: Mapping[Arm, list[float]]) -> dict[Arm, float]:
    closed = gap_closed({str(arm): values for arm, values in arms.items()})
    return {arm: closed[arm] for arm in arms if arm in closed}


def describe_round(
    number: int,
    accepted: AcceptedSet,
    ratio: Ratio,
    two_sample: Mapping[str, TwoSample] | None = None,
    last: bool = True,
    class_prior: ClassPriorEntry | None = None,
    parameters: Mapping[str, ParameterQuantiles] | None = None,
) -> RoundEntry:
    """Return a round's entry, with its trust card.

    Args:
        number: the round's number.
        accepted: the rows accepted in the round.
        ratio: the ratio that accepted them.
        two_sample: the tests under `before`, perhaps `moved`, and `after`; None means not tested.
        last: True if its rows are those to train on.
        class_prior: the treatment of the class prior; None means that the round is not the last of several.
        parameters: quantiles of the columns of real numbers.
    """
    sampling, described = SamplingReport.from_dict(finite(accepted.report.to_dict())), describe_ratio(ratio)
    found = None if two_sample is None else {name: asdict(test) for name, test in two_sample.items()}
    tests = None if found is None else TwoSampleTests.model_validate(finite(found))
    return RoundEntry(
        round=number,
        last=last,
        parameters=dict(parameters or {}),
        class_prior=class_prior,
        sampling=sampling,
        fingerprint=accepted.fingerprint,
        ratio=described,
        two_sample=tests,
        trust=trust_card(sampling, described, tests, class_prior),
    )


def describe_ratio(ratio: Ratio) -> RatioEntry:
    """Return the entry of a ratio: its kind, bound and, where it has them, quality and estimated class prior."""
    info = info_of(ratio)
    described = {
        "kind": type(ratio).__name__,
        "log_bound": ratio.log_bound,
        "bounded_by_construction": info.bounded_by_construction,
        "target_at_most": info.held_out is not None and info.held_out.at_most,
        "quality": None if info.quality is None else asdict(info.quality),
        "estimate": None if info.class_prior is None else describe_class_prior(info.class_prior).model_dump(),
    }
    return RatioEntry.model_validate(finite(described))


def describe_class_prior(estimate: ClassPrior) -> ClassPriorEstimate:
    """Return the entry of an estimated class prior."""
    return ClassPriorEstimate(**estimate.to_json(), effective_classes=estimate.effective_classes)


def describe_training(tuned: FineTuneResult, rows: int) -> TrainingEntry:
    """Return the entry of an arm's training on this number of rows, with what it took from a stream."""
    stream = None if tuned.stream is None else asdict(tuned.stream)
    described = {"rows": rows, "metrics": dict(tuned.metrics), **asdict(tuned.history), "stream": stream}
    return TrainingEntry.model_validate(finite(described))


def describe_evaluation(
    predictions: Mapping[Arm, Predictions],
    on_source: Mapping[Arm, Predictions],
    classes: Sequence[str],
    own_arm: Arm,
    fingerprint: str,
) -> Evaluation:
    """Return the evaluation of one seed.

    Args:
        predictions: of each arm's model on test images of the target domain.
        on_source: on held-out images of the source domain; may be empty.
        classes: their names.
        own_arm: the arm that the configuration itself describes.
        fingerprint: of the accepted rows that this arm was fine-tuned on.
    """
    arms = {arm: [predicted.accuracy] for arm, predicted in predictions.items()}
    return Evaluation(
        metric="accuracy",
        num_test=len(next(iter(predictions.values())).truth),
        arms=arms,
        gap_closed=_gap_closed(arms),
        source={arm: [predicted.accuracy] for arm, predicted in on_source.items()},
        classes=list(classes),
        by_class={arm: predicted.by_class for arm, predicted in predictions.items()},
        own_arm=own_arm,
        fingerprint=fingerprint,
    )


def format_round(entry: RoundEntry) -> str:
    """Return a round's entry as a line."""
    sampling, quality = entry.sampling, entry.ratio.quality
    auc = "" if quality is None else f", held-out AUC of the ratio {quality.auc:.3f}"
    name = "" if entry.last and entry.round == 0 else f"round {entry.round}: "
    return (
        f"{name}accepted {sampling.num_accepted:,} of {sampling.num_proposed:,} proposals "
        f"({sampling.acceptance_rate:.3%}), log M {sampling.log_m:.3f}, {sampling.num_capped:,} capped{auc}"
    )


def format_stream(stream: StreamReport) -> str:
    """Return the waiting times between sampling and training as a line."""
    return (
        f"{stream.rows:,} fresh rows of {stream.num_proposed:,} proposals; training waited for rows "
        f"{stream.trainer_waited_seconds:.1f} s, rows waited for training {stream.sampler_waited_seconds:.1f} s"
    )
