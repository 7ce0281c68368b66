"""Code of the user's that breaks its contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bad_input.case import Case, Changes, changing

HANGS = re.compile("sleeps|runs_|[Hh]angs")
"""In the names of what hangs; it is given 0.7 s."""
RATIOS, PROPOSALS, OTHERS = "ratios_of_mine", "proposals_of_mine", "envelopes_and_tasks_of_mine"

SCORES = {
    "nan": "ratio", "nan_for_one": "ratio", "infinite": "ratio", "above_its_bound": "ratio.max_score",
    "one_too_few": "ratio.score", "one_for_all": "ratio.score", "a_column": "ratio.score", "nothing": "ratio.score",
    "words": "ratio.score", "ragged": "ratio.score", "takes_nothing": "ratio.score",
    "wants_another_column": "ratio.score", "fails": "ratio.score", "fails_silently": "ratio.score",
    "exits": "ratio.score", "sleeps": "ratio", "runs_for_ever": "ratio", "runs_whatever_happens": "ratio",
    "NOT_CALLABLE": "ratio.score", "brihgt": "ratio.score",
}  # fmt: skip
CHECKS = ("numbers", "nan", "one_for_all", "nothing", "words", "fails", "exits", "one_too_few", "a_column")
CLASSES = {
    "GivesNan": "ratio", "GivesAnArray": "ratio", "GivesNothing": "ratio", "GivesOneTooFew": "ratio",
    "GivesComplexNumbers": "ratio", "Fails": "ratio", "Exits": "ratio", "Hangs": "ratio", "HangsWhenMade": "ratio",
    "FailsWhenMade": "ratio.factory", "ExitsWhenMade": "ratio.factory", "TakesOtherArguments": "ratio.factory",
    "HasNoBound": "ratio.factory", "BoundIsNan": "ratio.factory", "BoundIsInfinite": "ratio.factory",
    "BoundIsAWord": "ratio.factory", "BoundFails": "ratio.factory", "Gone": "ratio.factory",
}  # fmt: skip
PROPOSAL_CLASSES = (
    "OneTooFew", "None_", "Ragged", "NoColumns", "Nothing", "AList", "Arrays", "AScalarColumn", "NoImage", "NoLabel",
    "FloatImages", "FlatImages", "LargerImages", "FloatLabels", "OneHotLabels", "LabelsFromOne", "LabelsBelowZero",
    "ReservedName", "ComplexColumn", "BrainFloatColumn", "OwnRandomness", "Fails", "Exits", "Hangs", "HangsWhenMade",
    "ExitsWhenMade", "TakesOtherArguments", "TakesNoStreams", "nothing", "Gone",
)  # fmt: skip
MOVES = (
    "Sound", "MovesWithoutDensity", "MovesToNothing", "MovesToOtherColumns", "MovesToOwnRandomness",
    "MovesWithOtherArguments", "FailsToMove", "HangsWhenMoved",
)  # fmt: skip
GENERATORS = {
    "generator_of_nan": "proposal", "generator_of_one_too_few": "proposal", "generator_of_lists": "proposal",
    "generator_of_flat_images": "proposal", "generator_of_larger_images": "proposal",
    "generator_of_whole_numbers": "proposal", "generator_without_classes": "proposal",
    "generator_of_other_latents": "proposal", "generator_that_hangs": "proposal", "Sound": "proposal.factory",
    "nothing": "proposal.factory", "Gone": "proposal.factory", "TakesOtherArguments": "proposal.factory",
}  # fmt: skip
ENVELOPES = (
    "NoPilot", "PilotIsAWord", "ChoosesANumber", "ChoosesNothing", "ChoosesNan", "ChoosesInfinity", "ChoosesAWord",
    "ShrinksItsMargin", "EnvelopeFails", "EnvelopeExits", "EnvelopeHangs", "network",
)  # fmt: skip
TASKS = (
    "ModelIsNone", "OtherColumns", "LossIsAMean", "LossIsANumber", "LossIsDetached", "LossFails", "MetricsAreADict",
    "MetricIsUnknown", "UpdateFails", "SavesNothing", "LoadsNothing", "TaskHangs", "Envelope",
)  # fmt: skip
NETWORKS = (
    "network_of_another_head", "network_for_other_images", "network_of_nan", "no_network", "network_that_hangs",
)  # fmt: skip
MODULES = (
    "exits_when_imported", "fails_when_imported", "hangs_when_imported", "imports_what_is_missing",
    "not_there_at_all", "ratios_of_mine.deeper", "__main__",
)  # fmt: skip


def cases() -> Iterator[Case]:
    """Ratios, proposals, envelopes, tasks, networks, modules."""
    for case in _cases():
        yield replace(case, user_seconds=0.7) if HANGS.search(case.name) else case


def _cases() -> Iterator[Case]:
    for name, field in SCORES.items():
        score = {"kind": "reward", "score": f"{RATIOS}:{name}", "max_score": 2.0}
        yield changing(f"a score that {name}", field, ratio=score)
    for name in CHECKS:
        yield changing(f"a check that {name}", "ratio.passes", ratio={"kind": "verifier", "passes": f"{RATIOS}:{name}"})
    for name, field in CLASSES.items():
        ratio = {"kind": "custom", "factory": f"{RATIOS}:{name}"}
        yield changing(f"a ratio that {name}", field, ratio=ratio)
    for name in PROPOSAL_CLASSES:
        proposal = {"kind": "custom", "factory": f"{PROPOSALS}:{name}"}
        yield changing(f"a proposal that {name}", "proposal", proposal=proposal)
    for name in MOVES:
        proposal = {"kind": "custom", "factory": f"{PROPOSALS}:{name}"}
        yield changing(f"a proposal for rounds, {name}", "proposal", proposal=proposal, rounds=2)
    for name, field in GENERATORS.items():
        proposal = {"kind": "generator", "factory": f"{PROPOSALS}:{name}", "latent_dim": 3}
        yield changing(f"a generator, {name}", field, proposal=proposal)
    for name in ENVELOPES:
        envelope = {"kind": "custom", "factory": f"{OTHERS}:{name}"}
        yield changing(f"an envelope that {name}", "envelope", envelope=envelope)
    for name in TASKS:
        task = {"kind": "custom", "factory": f"{OTHERS}:{name}"}
        yield changing(f"a task that {name}", "task", task=task)
    for name in ("LogitsOfAnotherNumber", "ModelFails"):
        yield changing(f"a task that {name}", "model", task={"kind": "custom", "factory": f"{OTHERS}:{name}"})
    for name in NETWORKS:
        model = {"name": f"{OTHERS}:{name}"}
        yield changing(f"a model that {name}", "model", model=model)
        ratio = {"ratio": {"network": model}, "envelope": {"kind": "pilot"}}
        yield changing(f"a ratio's {name}", "ratio.network", **ratio)
    for name in MODULES:
        ratio = {"kind": "reward", "score": f"{name}:f"}
        yield changing(f"a module that {name}", "ratio", ratio=ratio, envelope={"kind": "pilot"})
    yield from _factors()
    yield from _settings()
    yield from _rounds()
    for place in ("nowhere", "a\0b", "~no_such_user_at_all/x", "x" * 5000):
        yield changing(f"code in {place:.20}", "code_folder", code_folder=place)
    yield Case("code in a file", "code_folder", _code_in_a_file)
    yield Case("code that is no Python", "ratio.score", _no_python)


def _factors() -> Iterator[Case]:
    sound = {"kind": "verifier", "passes": f"{RATIOS}:is_bright"}
    for name, part in (("fails", ".score"), ("a_column", ".score"), ("nan", ""), ("sleeps", "")):
        factors = [sound, {"kind": "reward", "score": f"{RATIOS}:{name}"}]
        ratio = {"kind": "product", "factors": factors}
        yield changing(f"a factor that {name}", f"ratio.factors.1{part}", ratio=ratio,
                       envelope={"kind": "pilot"})  # fmt: skip


def _settings() -> Iterator[Case]:
    """Yield configurations that no single key forbids."""
    label_shift = {"kind": "label_shift", "target_prior": [0.5, 0.5]}
    yield changing("a prior of three classes", "ratio.target_prior", ratio=label_shift | {"target_prior": [1, 0, 0]})
    yield changing("a prior of sum 2", "ratio.target_prior", ratio=label_shift | {"target_prior": [1, 1]})
    yield changing("a prior of zeros", "ratio.target_prior", ratio=label_shift | {"target_prior": [0, 0]})
    yield changing("a class that is not proposed", "ratio.proposal_prior", ratio=label_shift,
                   proposal={"class_prior": [1, 0]})  # fmt: skip
    yield changing("a prior of one class proposed", "proposal.class_prior", proposal__class_prior=[1])
    yield changing("a prior of zeros proposed", "proposal.class_prior", proposal__class_prior=[0, 0])
    yield changing("a distribution that is not proposed", "ratio.parameters",
                   ratio={"kind": "density", "parameters": {"noise": {"uniform": [0, 1]}}})  # fmt: skip
    yield changing("a distribution without a bound under a certificate", "envelope.kind",
                   ratio={"kind": "density", "parameters": {"rotation": {"normal": [0, 1]}}})  # fmt: skip
    yield changing("a certificate of none", "envelope.kind", ratio={}, envelope={"kind": "certified"})
    yield changing("a transform that is none", "proposal.transforms.0.name", proposal__transforms=[{"name": "Spin"}])
    yield changing("a transform's option that is none", "proposal.transforms.0.options",
                   proposal__transforms=[{"name": "Resize", "options": {"sise": 4}}])  # fmt: skip
    yield changing(
        "a transform that fails", "proposal", proposal__transforms=[{"name": "RandomCrop", "options": {"size": 99}}]
    )
    yield changing("a transform that changes the size", "proposal",
                   proposal__transforms=[{"name": "Resize", "options": {"size": [4, 4]}}])  # fmt: skip
    yield changing("a network that is none", "model.name", model={"name": "resnet19"})
    yield changing("a network without a head", "model.name", model={"name": "squeezenet1_0"})
    yield changing("a network for rows of numbers", "model", model={"name": "mlp"})
    yield changing("a network for larger images", "model", model={"name": "vit_b_16"})
    yield changing("a network of a petabyte", "model", model={"width": 10**7})
    yield changing("an option that is given already", "proposal.factory",
                   proposal={"kind": "custom", "factory": f"{PROPOSALS}:Sound", "options": {"source": 1}})  # fmt: skip


def _rounds() -> Iterator[Case]:
    """Yield configurations that no single key of rounds or of the evaluation forbids."""
    yield changing("rounds that have nothing to move", "proposal.parameters", rounds=2, proposal={})
    yield changing("rounds of too few rows", "rounds.num_accepted", rounds={"num_rounds": 2, "num_accepted": 14})
    many = {"kind": "generator", "factory": f"{PROPOSALS}:sound_generator", "latent_dim": 99}
    yield changing("rounds of too few rows for so many latents", "rounds.num_accepted", rounds=2, proposal=many)
    factors = [{"kind": "density", "parameters": {"rotation": {"uniform": [0, 1]}}}, {"network": {"width": 4}}]
    yield changing("distributions beside a learned ratio in rounds", "ratio", rounds=2, envelope={"kind": "pilot"},
                   ratio={"kind": "product", "factors": factors})  # fmt: skip
    for name in NETWORKS[:-1]:
        network = {"name": f"{OTHERS}:{name}"}
        yield changing(f"for the class prior, {name}", "rounds.class_prior.network",
                       rounds={"num_rounds": 2, "class_prior": {"network": network}})  # fmt: skip
    arms = {"evaluation": {"arms": ["batch_norm"]}}
    yield changing("a network without batch norm to take anew", "evaluation.arms", **arms,
                   model={"name": f"{OTHERS}:network"})  # fmt: skip
    yield Case("rounds where there were none", "output", lambda folder: {"rounds": 2}, earlier={})
    yield Case("other arms than before", "output", lambda folder: arms, earlier={"evaluation": {"arms": []}})


def _no_python(folder: Path) -> Changes:
    (folder / "is_no_python.py").write_text("def (:\n")
    return {"code_folder": str(folder), "ratio.score": "is_no_python:f"}


def _code_in_a_file(folder: Path) -> Changes:
    (folder / "mine.py").write_text("")
    return {"code_folder": str(folder / "mine.py")}
