"""The text of a first configuration: ten to twenty lines of YAML with comments, which run as they are."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from rsf_dist.config import size_rules
from rsf_dist.config.load import parse_text
from rsf_dist.data.sources.base import printable
from rsf_dist.data.sources.recognise import place
from rsf_dist.errors import InputError, located
from rsf_dist.ratios.rows import MIN_ROWS
from rsf_dist.starting.choices import PRESETS, PUBLISHED, Choices, choose
from rsf_dist.starting.found_images import FoundImages, find_labelled, find_unlabelled

Line = tuple[str, str]
"""Text, and a comment to its right. The comment is empty where there is none."""

_COMMENTS_FROM, _WIDEST = 48, 72  # columns


def first_config(source: str, target: str, test: str | None = None, preset: str = "quick") -> str:
    """Return the text of a configuration for these images. Nothing is written.

    Args:
        source: path of labelled images.
        target: path of images of the target domain; their labels are not looked at.
        test: path of labelled images of the target domain, for the evaluation. None means no evaluation.
        preset: the effort, a key of PRESETS.

    Raises:
        InputError: a path leads to no images that can be used so.
    """
    with located("SOURCE"):
        labelled = find_labelled(source)
        _require_classes(labelled)
    with located("TARGET"):
        unlabelled = find_unlabelled(target)
        _require_enough(unlabelled, target)
    tested = None
    if test is not None:
        with located("TEST"):
            tested = find_labelled(test)
            tested.listing.by_name(labelled.listing.classes)
    sets = [labelled, unlabelled, *([] if tested is None else [tested])]
    text = "\n".join(_aligned(_lines(sets, choose(sets, PRESETS[preset])))) + "\n"
    parse_text(text)  # what is written must be read
    return text


def _require_classes(images: FoundImages) -> None:
    classes = images.listing.classes
    if len(classes) < 2:
        rule, remedy = "is the only class, and a classifier needs two", "put each class into a folder of its own"
        raise InputError("", printable(", ".join(classes)), rule, remedy)


def _require_enough(images: FoundImages, path: str) -> None:
    if len(images) < MIN_ROWS:
        rule = f"holds {len(images)} images, and a ratio needs {MIN_ROWS} or more"
        raise InputError("", path, rule, "give more")


def _lines(sets: Sequence[FoundImages], choices: Choices) -> Iterator[Line]:
    yield "# `rsf schema config --markdown` explains every key.", ""
    yield f"output: {_flow(_free_output(sets[1]))}", ""
    yield from _image_lines(sets, choices)
    yield "", ""
    yield from _proposal_lines(choices)
    yield from _sampling_lines(choices)
    yield "", ""
    yield from _model_lines(choices)
    if len(sets) == 3:
        yield f"evaluation: {_flow({'test': dict(sets[2].keys)})}", f"{sets[2]}; for the report alone"
    else:
        yield "# evaluation: {test: {kind: image_folder, root: FOLDER}}", "labelled images of the target domain"


def _image_lines(sets: Sequence[FoundImages], choices: Choices) -> Iterator[Line]:
    source, target = sets[:2]
    common: dict[str, Any] = {} if choices.size is None else {"size": list(choices.size)}
    common |= {} if choices.channels is None else {"channels": choices.channels}
    if common:
        yield f"data: {_flow(common)}", "scaled to cover this, and cropped" if choices.size else ""
    yield f"source: {_flow(dict(source.keys))}", f"{source}, {len(source.listing.classes)} classes"
    yield f"target: {_flow(dict(target.keys))}", f"{target}; labels are not looked at"


def _proposal_lines(choices: Choices) -> Iterator[Line]:
    yield "proposal: {parameters: {", "broad, because nobody knows how the target differs"
    units = {"rotation": "radians", "translate_x": "of half the width", "noise": "of full range"}
    *_, last = choices.parameters
    for name, distribution in choices.parameters.items():
        yield f"  {name}: {_flow(distribution)}{'}}' if name == last else ','}", units.get(name, "")


def _sampling_lines(choices: Choices) -> Iterator[Line]:
    preset, pilot = choices.preset, {"num_pilot": 2000}
    ratio = {"network": size_rules.network(choices.shape), "num_proposals": choices.num_proposals}
    yield f"ratio: {_flow(ratio | {'optimizer': {'steps': preset.ratio_steps}})}", "tells target images from proposals"
    rounds = {"num_rounds": preset.rounds, "num_accepted": min(choices.num_accepted, 400), "acceptance": 0.05}
    comment = "move the proposal towards the target; class_prior: null leaves the class prior as it is"
    yield f"rounds: {_flow(rounds | pilot | {'class_prior': None})}", comment
    yield f"envelope: {_flow({'kind': 'budget', 'acceptance': 0.1} | pilot)}", "keep the best tenth"
    yield f"sampling: {_flow({'num_accepted': choices.num_accepted})}", "rows to train on"


def _model_lines(choices: Choices) -> Iterator[Line]:
    model = choices.model
    weights = size_rules.is_photograph(choices.shape) and "weights" not in model
    if weights:
        yield f"# model: {{name: {PUBLISHED}, weights: IMAGENET1K_V1}}", "better than the next line; downloads 45 MB"
    yield f"model: {_flow(model)}", ""
    yield f"pretrain: {_flow(choices.fit(choices.num_source))}", "on the source images, before fine-tuning"
    yield f"training: {_flow(choices.fit(choices.num_accepted))}", ""


def _free_output(target: FoundImages) -> str:
    """Return runs/ and the target's name, with a number behind it if that is taken."""
    name = Path(os.path.abspath(place(target.keys))).stem or "run"  # of `..`, too
    numbered = (f"runs/{name}-{number}" for number in itertools.count(2))
    return next(path for path in itertools.chain([f"runs/{name}"], numbered) if not os.path.lexists(path))


def _aligned(lines: Iterator[Line]) -> Iterator[str]:
    for text, comment in lines:
        if not comment:
            yield text
        elif len(text) < _WIDEST:
            yield f"{text:{_COMMENTS_FROM}}  # {comment}"
        else:
            yield from (f"# {comment}:", text)


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").strip()
