"""The stages of a seed run, and what each of them depends on.

    models/pretrained -> rounds/000/ratio -> rounds/000/pilot -> rounds/000/accepted -> … -> models/random

A stage follows from its keys of the configuration, its image sets, the seed, the stages that it rests on, and what
`runs.made_with` records. Keys that are not in this table change none of its results. A stage is named by its folder.

Two stages are always made anew and are therefore not in the table: the report of a round, with its two-sample tests,
and the evaluation on the test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rsf_dist.config.evaluation import Arm
from rsf_dist.config.resume import is_own_option, leaves
from rsf_dist.config.run import RunConfig
from rsf_dist.runs.arms import UNTRAINED, arm_folder, arms
from rsf_dist.runs.class_prior import class_prior_folder
from rsf_dist.runs.seed_run import PRETRAINED, accepted_folder, pilot_folder, ratio_folder

SEVERAL = "rounds before the last"
"""A key of `values` that the configuration does not have: true if there are such rounds."""

_NO_EFFECT = ("wait_seconds", "max_failures")
"""Keys, in every section, that change no result. Options of the user's own code always count."""

_MODEL = ("task", "model", "pretrain")
_TRAINER = ("training.cpus_per_worker", "training.use_gpu")
_DRAWN_BY = ("sampling.chunk_size", "sampling.pool.gpus_per_actor")
_COLUMNS = "source.attributes"  # the digest of images holds the values of attributes, and not their names
_MOVED = ("rounds.num_accepted", "rounds.max_components", "rounds.defensive_share", "rounds.min_auc_gain")


@dataclass(frozen=True)
class Stage:
    """The dependences of a stage.

    Args:
        title: the stage's name in messages.
        keys: keys of the configuration, each with all keys below it.
        images: image sets, of which the digest counts.
        rests_on: the stages before.
        folders: the folders of its results; empty for a round's rows.
        round: the number of the round whose rows these are; None for other stages.
        wanted: the key of the number of rows. Where it grows, a round is drawn on from where it stopped.
        explores: for a pilot, True if its round is not the last; None for other stages. A pilot serves only with the
            number of proposals that its round draws.
    """

    title: str
    keys: tuple[str, ...]
    images: tuple[str, ...] = ()
    rests_on: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    round: int | None = None
    wanted: str = ""
    explores: bool | None = None


def stages(config: RunConfig, last: int | None) -> dict[str, Stage]:
    """Return the stages of a seed run in their order, by name.

    Args:
        config: the seed run's configuration.
        last: the number of the round whose rows are trained on. None means that it is not reached, so that every round
            up to the last but one explores.
    """
    table: dict[str, Stage] = {}
    if config.pretrain is not None:
        keys = (*_MODEL, *_TRAINER)
        table[PRETRAINED] = Stage("pretrained model", keys, ("source",), folders=(PRETRAINED,))
    exploring = config.rounds.num_rounds - 1 if last is None else min(last, config.rounds.num_rounds - 1)
    for number in range(exploring):
        table |= _round(config, number, is_last=False)
    if last is not None and last < config.rounds.num_rounds:
        table |= _round(config, last, is_last=True)
        table |= {arm_folder(arm): _arm(config, arm, last) for arm in arms(config) if arm not in UNTRAINED}
    return table


def values(config: RunConfig, stage: Stage) -> dict[str, Any]:
    """Return the values of a stage's keys, by their dotted keys."""
    known = {**leaves(config), SEVERAL: config.rounds.num_rounds > 1}
    return {key: value for key, value in known.items() if _counts(key, stage.keys)}


def _counts(key: str, keys: tuple[str, ...]) -> bool:
    without_effect = key.rpartition(".")[2] in _NO_EFFECT and not is_own_option(key)
    return not without_effect and any(f"{key}.".startswith(f"{name}.") for name in keys)


def _round(config: RunConfig, number: int, is_last: bool) -> Mapping[str, Stage]:
    """Return the stages of a round: its ratio, if it has one of its own, its pilot and its rows."""
    before = (accepted_folder(number - 1),) if number else ()
    moved = ("proposal", *(_MOVED if number else ()), *(("rounds.num_rounds",) if number and is_last else ()))
    ratio = dict(_ratio(config, number, is_last, moved, before))
    base = tuple(ratio) or (ratio_folder(0),)
    pilot = Stage(
        f"pilot of round {number}",
        (*moved, *_DRAWN_BY),
        rests_on=(*base, *before),
        folders=(pilot_folder(number),),
        explores=not is_last,
    )
    rows = Stage(
        f"rows of round {number}",
        (*_envelope(config, is_last), SEVERAL),
        rests_on=(pilot_folder(number),),
        round=number,
        wanted="sampling.num_accepted" if is_last else "rounds.num_accepted",
    )
    return {**ratio, pilot_folder(number): pilot, accepted_folder(number): rows}


def _envelope(config: RunConfig, is_last: bool) -> tuple[str, ...]:
    """Return the keys that M follows from. The best k rows of a pool are read at an M that is another for each k."""
    if not is_last:
        return ("rounds.acceptance", "rounds.num_pilot")
    return ("sampling.top_k", *(("envelope",) if config.sampling.top_k is None else ()))


def _ratio(
    config: RunConfig, number: int, is_last: bool, moved: tuple[str, ...], before: tuple[str, ...]
) -> Iterator[tuple[str, Stage]]:
    """Yield the ratio of a round with the class prior that its proposal has, if the round has any of the two."""
    made = (ratio_folder(number),) if number == 0 or config.ratio.is_learned else ()
    decided = (class_prior_folder(number),) if number and is_last else ()
    if not (made or decided):
        return
    warm = number > 0 and config.ratio.can_warm_start
    keys: tuple[str, ...] = (*moved, _COLUMNS, "ratio", *(("rounds.warm_start_steps",) if warm else ()))
    rests_on = (*before, *((ratio_folder(number - 1),) if warm else ()))
    if decided:
        keys = (*keys, "rounds.class_prior", *_DRAWN_BY)
        if _prior_needs_model(config):
            keys, rests_on = (*keys, *_MODEL), (*rests_on, *_pretrained(config))
    title = f"ratio of round {number}" if made else f"class prior of round {number}"
    yield ratio_folder(number), Stage(title, keys, ("source", "target", "pool"), rests_on, (*decided, *made))


def _prior_needs_model(config: RunConfig) -> bool:
    """Return True if the last round's class prior is estimated with the run's own model."""
    prior = config.rounds.class_prior
    return prior is not None and prior.network is None and config.ratio.leaves_class_prior_open


def _pretrained(config: RunConfig) -> tuple[str, ...]:
    return () if config.pretrain is None else (PRETRAINED,)


def _arm(config: RunConfig, arm: Arm, last: int) -> Stage:
    """Return the fine-tuning of an arm. It counts as resting on the accepted rows, whose number every arm has."""
    keys: tuple[str, ...] = (*_MODEL, "training", "sampling.mode", "sampling.num_accepted")
    if arm == "pseudo_labels":
        keys = (*keys, "evaluation.pseudo_label_confidence")
    if arm == "one_shot" and arm != config.own_arm:  # its rows are others, and may have ended short
        keys = (*keys, "sampling.budget")
    images = {"pseudo_labels": ("source", "target"), "oracle": ("source", "oracle")}.get(arm, ("source",))
    rests_on = (accepted_folder(last), *_pretrained(config))
    return Stage(f"model of arm {arm}", keys, images, rests_on, (arm_folder(arm),))
