"""report.json: what each stage of a trial found, added as it is found, and merged over trials at the end."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rsf_dist.errors import InputError
from rsf_dist.evaluation.predictions import Predictions, gap_closed
from rsf_dist.ratios import Ratio
from rsf_dist.ratios.info import info_of
from rsf_dist.report.trust_card import trust_card
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.storage.run_store import RunStore
from rsf_dist.training.state import StreamReport
from rsf_dist.training.trainer import FineTuneResult

RECORD = "report.json"


ARMS = {
    "pretrained": "the model before fine-tuning",
    "batch_norm": "that, batch norm taken from the target",
    "pseudo_labels": "target images with its own labels",
    "random": "proposals accepted at random",
    "weighted": "these, weighted by the ratio",
    "one_shot": "proposals accepted by rejection",
    "adaptive": "proposals accepted after rounds",
    "oracle": "labelled target images",
}
"""The arms, in the order in which they are shown, and what each was fine-tuned on."""


_PARTS = {"versions", "seeds", "rounds", "training", "evaluation", "seconds"}


_LIBRARIES = ("rsf-dist", "ray", "torch", "torchvision", "numpy", "pyarrow")


def begin(store: RunStore, seed: int) -> None:
    """An empty record, where there is none."""
    if store.exists(RECORD) and _parsed(store) is not None:
        return
    versions = {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
    write(
        store, {"versions": versions, "seeds": [seed], "rounds": [], "training": {}, "evaluation": None, "seconds": {}}
    )


def add(store: RunStore, **found: Any) -> None:
    """Replace or, for `training`, extend entries of the record."""
    record = read(store)
    for name, value in found.items():
        record[name] = record[name] | value if name == "training" else value
    write(store, record)


def add_seconds(store: RunStore, stage: str, seconds: float) -> None:
    """Add to what a stage took, over all attempts at it."""
    record = read(store)
    record["seconds"][stage] = round(record["seconds"].get(stage, 0.0) + seconds, 2)
    write(store, record)


def add_round(store: RunStore, described: dict[str, Any]) -> None:
    """Put a round's entry in its place; entries of later rounds, which came from other rows, go."""
    earlier = [one for one in read(store)["rounds"] if one["round"] < described["round"]]
    add(store, rounds=[*earlier, described])


def last_round(store: RunStore) -> dict[str, Any]:
    """The entry of the round that gave the rows to train on. Raises InputError where there is none yet."""
    rounds = read(store)["rounds"]
    if not rounds or not rounds[-1]["last"]:
        raise InputError("run", store.uri, "has no accepted rows to train on", "sample them first: rsf sample")
    return rounds[-1]


def has_round(store: RunStore, fingerprint: str) -> bool:
    """Whether the record tells of a round with these rows."""
    return any(described["fingerprint"] == fingerprint for described in read(store)["rounds"])


def read(store: RunStore) -> dict[str, Any]:
    """The record. Raises InputError where there is none, or a damaged one."""
    record = _parsed(store)
    if record is None:
        raise InputError(RECORD, store.uri, "is damaged", "run it again with the same configuration: it is made again")
    return record


def _parsed(store: RunStore) -> dict[str, Any] | None:
    try:
        record = json.loads(store.read(RECORD))
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.keys() >= _PARTS else None


def write(store: RunStore, record: dict[str, Any]) -> None:
    """Replace the record, atomically. Numbers that are not finite, for which JSON has no word, become null."""
    store.write(RECORD, json.dumps(finite(record), indent=2, allow_nan=False) + "\n")


def merge(stores: Sequence[RunStore], folders: Sequence[str]) -> dict[str, Any]:
    """The first trial's record, with the seeds and the evaluations of all; `folders` says where the trials are."""
    records = [read(store) for store in stores]
    for store, record in zip(stores, records, strict=True):
        if not record["rounds"] or not record["rounds"][-1]["last"]:
            raise InputError("run", store.uri, "has no accepted rows to report on", "run it again")
    red = [[check["name"] for check in one["rounds"][-1]["trust"] if check["light"] == "red"] for one in records]
    merged = (
        records[0]
        | {"red": red}
        | {"seeds": [seed for record in records for seed in record["seeds"]], "trials": list(folders)}
    )
    evaluations = [record["evaluation"] for record in records]
    if None in evaluations:  # trials that were only sampled
        return merged | {"evaluation": None}

    def gather(name: str) -> dict[str, list[float]]:
        return {arm: [value for one in evaluations for value in one[name][arm]] for arm in evaluations[0][name]}

    together = {"arms": gather("arms"), "source": gather("source")}
    return merged | {"evaluation": evaluations[0] | together | {"gap_closed": gap_closed(together["arms"])}}


def describe_round(
    number: int,
    accepted: AcceptedSet,
    ratio: Ratio,
    two_sample: dict[str, dict[str, Any]] | None = None,
    last: bool = True,
    mix: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A round's entry. two_sample, mix: as of `trust_card`; last: whether its rows are those to train on."""
    sampling, described, tested = finite(accepted.report.to_dict()), describe_ratio(ratio), finite(two_sample)
    return {
        "round": number,
        "last": last,
        "parameters": {},
        "class_prior": mix and mix["class_prior"],
        "class_mix_kept": mix and mix["class_mix_kept"],
        "sampling": sampling,
        "fingerprint": accepted.fingerprint,
        "ratio": described,
        "two_sample": tested,
        "trust": [asdict(check) for check in trust_card(sampling, described, tested, mix)],
    }


def describe_ratio(ratio: Ratio) -> dict[str, Any]:
    """Its kind and bound; the quality of a learned one; the class prior that was estimated for it."""
    info = info_of(ratio)
    described: dict[str, Any] = {
        "kind": type(ratio).__name__,
        "log_bound": ratio.log_bound,
        "bounded_by_construction": info.bounded_by_construction,
        "target_at_most": info.held_out is not None and info.held_out.at_most,
    }
    if info.quality is not None:
        described |= asdict(info.quality)
    if info.class_prior is not None:
        described["estimate"] = info.class_prior.to_json()
    return finite(described)


def finite(value: Any) -> Any:
    """The value with None for each number within that is not finite."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_round(described: dict[str, Any]) -> str:
    """The round's entry as a line."""
    sampling, ratio = described["sampling"], described["ratio"]
    auc = f", held-out AUC of the ratio {ratio['auc']:.3f}" if "auc" in ratio else ""
    round = "" if described["last"] and described["round"] == 0 else f"round {described['round']}: "
    return (
        f"{round}accepted {sampling['num_accepted']:,} of {sampling['num_proposed']:,} proposals "
        f"({sampling['acceptance_rate']:.3%}), log M {sampling['log_m']:.3f}, {sampling['num_capped']:,} capped{auc}"
    )


def describe_training(tuned: FineTuneResult) -> dict[str, Any]:
    """An arm's training; with a stream, what it took from it."""
    stream = {} if tuned.stream is None else {"stream": asdict(tuned.stream)}
    return {"metrics": tuned.metrics, **asdict(tuned.history), **stream}


def format_stream(stream: StreamReport) -> str:
    """Who waited for whom, as a line."""
    return (
        f"{stream.rows:,} fresh rows of {stream.num_proposed:,} proposals; training waited "
        f"{stream.trainer_waited_seconds:.1f} s for them, and they {stream.sampler_waited_seconds:.1f} s for training"
    )


def describe_evaluation(
    verdicts: Mapping[Any, Predictions], on_source: Mapping[Any, Predictions], classes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy on the target's and on the source's test images, one value a seed; of each class, for this seed."""
    arms = {arm: [verdict.accuracy] for arm, verdict in verdicts.items()}
    return {
        "metric": "accuracy",
        "num_test": len(next(iter(verdicts.values())).truth),
        "arms": arms,
        "gap_closed": gap_closed(arms),
        "source": {arm: [verdict.accuracy] for arm, verdict in on_source.items()},
        "classes": list(classes),
        "by_class": {arm: verdict.by_class for arm, verdict in verdicts.items()},
    }
