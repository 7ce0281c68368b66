"""Texts that stand in place of a configuration's file, and overrides that are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bad_input.case import Case, noise

SENTINEL = "/tmp/rsf-dist-yaml-was-executed"
"""The file that a tag of YAML would leave, if it were obeyed."""

_LAUGHS = "\n".join(
    ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
)
_SOUND = "output: x\nsource: {kind: digits}\ntarget: {kind: digits}\n"

TEXTS: dict[str, tuple[str, str | bytes]] = {
    "nothing": ("config", ""),
    "a comment": ("config", "# nothing yet\n"),
    "white space": ("config", " \n\n  "),
    "a word": ("config", "run"),
    "a number": ("config", "42"),
    "a list": ("config", "- a\n- b\n"),
    "null": ("config", "null"),
    "two documents": ("config", "a: 1\n---\nb: 2\n"),
    "a bracket that stays open": ("config", "output: [1, 2"),
    "a quote that stays open": ("config", 'output: "x'),
    "a tab that indents": ("config", "source:\n\tkind: digits\n"),
    "indents that differ": ("config", "source:\n    kind: digits\n  root: x\n"),
    "an alias of nothing": ("config", "output: *nobody\n"),
    "a date that is none": ("config", "output: 2020-13-45\n"),
    "a control character": ("config", "output: a\x07b\n"),
    "bytes": ("config", b"\x00\x01\x02\xfe\xff"),
    "noise": ("config", noise(4096)),
    "UTF-16": ("config", "output: x\n".encode("utf-16")),
    "Latin-1": ("config", "output: caf\xe9\n".encode("latin-1")),
    "a PNG": ("config", b"\x89PNG\r\n\x1a\n" + noise(64)),
    "JSON cut short": ("config", '{"output": "x", "source"'),
    "merge of a word": ("config", "output: x\n<<: y\n"),
    "a key that is a list": ("config", "? [a, b]\n: 1\n"),
    "a key twice": ("config", _SOUND + "output: y\n"),
    "a key twice, deeper": ("config", "output: x\nsource: {kind: digits, limit: 3, limit: 4}\n"),
    "a key twice, quoted": ("config", 'output: x\n"output": y\n'),
    "lists in lists, deep": ("config", "output: " + "[" * 20_000 + "]" * 20_000),
    "sections in sections, deep": ("config", "{a: " * 3_000 + "1" + "}" * 3_000),
    "billion laughs": ("config", _LAUGHS),
    "billion laughs in options": ("config", _LAUGHS + "\nmodel: {options: {x: *a9}}\n"),
    "an alias within itself": ("config", "output: &a [*a]\n"),
    "a section within itself": ("config", "model: &a {options: *a}\n"),
    "too long": ("config", "output: x\n" + "# filler\n" * 200_000),
    "an octal number": ("config", _SOUND + "sampling: {num_accepted: 010}\n"),
    "a number of base 60": ("config", _SOUND + "sampling: {num_accepted: 1:30}\n"),
    "a fraction of base 60": ("config", _SOUND + "sampling: {num_accepted: 1}\ntraining: {learning_rate: 1:30.5}\n"),
    "a number without end": ("config", "seed: " + "9" * 5_000),
    "a python object": ("config", f"output: !!python/object/apply:os.system ['touch {SENTINEL}']\n"),
    "a python name": ("config", "output: !!python/name:os.system\n"),
    "a python module": ("config", "output: !!python/module:os\n"),
    "a python object, new": ("config", f"output: !!python/object/new:pathlib.Path ['{SENTINEL}']\n"),
    "a python tuple": ("config", "output: !!python/tuple [a, b]\n"),
    "a tag of one's own": ("config", "output: !secret x\n"),
    "a binary value": ("seed", _SOUND + "sampling: {num_accepted: 1}\nseed: !!binary aGVsbG8=\n"),
    "a date": ("code_folder", _SOUND + "sampling: {num_accepted: 1}\ncode_folder: 2020-01-02\n"),
    "a set": ("evaluation", _SOUND + "sampling: {num_accepted: 1}\nevaluation: !!set {test}\n"),
    "an unquoted yes": ("evaluation.arms", _SOUND + "sampling: {num_accepted: 1}\nevaluation: {arms: [yes, no]}\n"),
    "no section": ("sampling", _SOUND),
    "an empty section": ("sampling", _SOUND + "sampling:\n"),
    "only a number for a key": ("1", _SOUND + "sampling: {num_accepted: 1}\n1: 2\n"),
    "an empty key": ("config", _SOUND + "sampling: {num_accepted: 1}\n'': 2\n"),
}  # fmt: skip

OVERRIDES: dict[str, str] = {
    "trainingsteps": "override",
    "=3": "override",
    "training.=3": "override",
    ".steps=3": "override",
    "training..steps=3": "override",
    "output.deeper=2": "override",
    "source.kind.deeper=2": "override",
    "training.steps=[": "override",
    "training.steps={a": "override",
    "training.steps='": "override",
    "training.steps=2020-13-45": "override",
    "model.options=!!python/object/apply:os.getcwd []": "override",
    "training.steps=010": "override",
    "training.steps=1:30": "override",
    "model.options.x=0:10.5": "override",
    "training={steps: 1, steps: 2}": "override",
    "model.options=&a [*a]": "override",
    "training.step=3": "training.step",
    "trainig.steps=3": "trainig",
    "training.steps=": "training.steps",
    "training.steps=many": "training.steps",
    "training.steps=1.5": "training.steps",
    "training.steps=.inf": "training.steps",
    "training.steps=1e400": "training.steps",
    "training.use_gpu=maybe": "training.use_gpu",
    "training=3": "training",
    "training=[steps, 3]": "training",
    "seed=-1": "seed",
    "seed=yes": "seed",
    "ratio=reward": "ratio",
    "ratio={kind: rewrad}": "ratio.kind",
    "ratio.kind=": "ratio.kind",
    "envelope={kind: budget, acceptance: 5 %}": "envelope.acceptance",
    "sampling.pool={min_actors: 4, max_actors: 2}": "sampling.pool",
    "evaluation.arms=[adaptive]": "config",
    "rounds=0": "rounds.num_rounds",
    "rounds=many": "rounds",
    "rounds={num_rounds: 3, acceptance: 0.001}": "rounds",
    "rounds={num_rounds: 3, class_prior: {method: guess}}": "rounds.class_prior.method",
    "evaluation.arms=[pretrained, one_shot, two_shot]": "evaluation.arms.2",
    "source.classes=[a, a]": "source",
    "source.root=": "source",
    "target.kind=shiftd": "target.kind",
    "target={kind: shifted}": "target.base",
    "target={kind: shifted, base: {kind: digits}, num_unlabeled: 9}": "target.num_unlabeled",
    "target={kind: shifted, base: {kind: digits}, shift: {rotaton: {mean: 1}}}": "target.shift.rotaton",
    "target={kind: shifted, base: {kind: digits}, shift: {rotation: 0.6}}": "target.shift.rotation",
    "target={kind: shifted, base: {kind: digits}, shift: {rotation: {mean: 30}}}": "target.shift.rotation.mean",
    "target={kind: shifted, base: {kind: digits}, shift: {rotation: {mean: 0, sd: 15}}}": "target.shift.rotation.sd",
    "proposal.parameters.rotation=[-30, 30]": "proposal.parameters.rotation",
    "proposal.parameters.rotation.uniform=[-30, 30]": "proposal.parameters.rotation.uniform",
    "proposal.parameters.rotation={normal: [0, 15]}": "proposal.parameters.rotation.normal",
    "source.classes=[0, 1]": "source.classes.0",
    "source.size=224x224": "source.size",
    "target={kind: shifted, base: {kind: digits}, shift: {prior: [1, -1]}}": "target.shift.prior.1",
    "target={kind: shifted, base: {kind: shifted}}": "target.base.kind",
    "target.shift.blur=1": "target.shift",
    "evaluation.test={kind: shifted, base: {kind: digits}}": "evaluation",
    "evaluation={oracle: {kind: shifted, base: {kind: digits}}, arms: [one_shot, oracle]}": "evaluation",
    "evaluation.source_test={kind: shifted, base: {kind: digits}}": "evaluation.source_test",
    "data.rot=/x": "data.rot",
    "data=/x": "data",
    "data.kind=shifted": "data.kind",
    "data.classes=[a, a]": "data.classes",
}


def cases() -> Iterator[Case]:
    """Files and overrides."""
    for name, (field, text) in TEXTS.items():
        yield Case(f"the file is {name}", field, text=text)
    for override, field in OVERRIDES.items():
        yield Case(f"override {override}", field, arguments=(override,))
    yield Case("the file is a folder", "config", _a_folder)
    yield Case("the file is a link to itself", "config", _a_loop)
    yield Case("the file is a device", "config", _a_device)


def _a_folder(folder: Path) -> dict[str, str]:
    (folder / "config.yaml").mkdir()
    return {}


def _a_loop(folder: Path) -> dict[str, str]:
    (folder / "config.yaml").symlink_to(folder / "config.yaml")
    return {}


def _a_device(folder: Path) -> dict[str, str]:
    (folder / "config.yaml").symlink_to("/dev/zero")
    return {}
