"""A seed run keeps its arms' models and makes them anew when due; some arms train on no proposals."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from rsf_dist.builders.components import build_task
from rsf_dist.config.evaluation import Arm
from rsf_dist.config.load import parse_config
from rsf_dist.config.resources import Share
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.run import RunConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.evaluation.predictions import Predictions
from rsf_dist.models.networks import ImageNetwork
from rsf_dist.ratios import LabelShiftRatio
from rsf_dist.report import report_json
from rsf_dist.runs import arms, baselines
from rsf_dist.runs.arms import MODEL, arm_model, arm_rows, fine_tune, train_seed, training_bytes
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.run_store import RunStore
from rsf_dist.training.state import History

CONFIG = parse_config(
    {
        "output": "unused",
        "source": {"kind": "digits"},
        "target": {"kind": "digits"},
        "sampling": {"num_accepted": 100},
        "model": {"width": 4},
    }
)
OF_ROUNDS = [arm for arm in get_args(Arm) if arm != "top_k"]
"""Every arm that a run with rounds can have."""

SOURCE = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))


@pytest.fixture
def seed_run(tmp_path: Path) -> SeedRun:
    report_json.begin(RunStore(tmp_path), seed=0)
    return SeedRun(CONFIG, SimpleNamespace(source=SOURCE, proposed_from=SOURCE), RunStore(tmp_path), 0, Progress())


@pytest.fixture
def tuned(monkeypatch) -> list[str]:
    """The fingerprints of the rows that were trained on, each time with another model."""
    made: list[str] = []

    def fine_tune(seed_run, arm, accepted, initial, beside=None):
        made.append(accepted.fingerprint)
        model = build_task(CONFIG.task, CONFIG.model, SOURCE).build_model(len(made))
        metrics = {"step": len(made)}
        return SimpleNamespace(load_model=lambda: model, metrics=metrics, history=History(), stream=None), 90

    monkeypatch.setattr(arms, "fine_tune", fine_tune)
    return made


def of(seed_run: SeedRun, fingerprint: str) -> torch.Tensor:
    """A weight of the arm's model for rows with this fingerprint."""
    model = arm_model(seed_run, "one_shot", SimpleNamespace(fingerprint=fingerprint), torch.nn.Identity())
    return next(model.parameters()).detach()


def test_a_model_is_made_once_for_its_rows(seed_run, tuned):
    first = of(seed_run, "f")
    assert torch.equal(of(seed_run, "f"), first)
    assert tuned == ["f"]


def test_other_rows_get_another_model(seed_run, tuned):
    first = of(seed_run, "f")
    assert not torch.equal(of(seed_run, "g"), first)
    assert tuned == ["f", "g"]
    assert report_json.read(seed_run.store).training["one_shot"].metrics == {"step": 2}
    assert report_json.read(seed_run.store).training["one_shot"].rows == 90


def test_a_damaged_model_is_made_again(seed_run, tuned):
    of(seed_run, "f")
    Path(seed_run.store.path("models/one_shot/model.safetensors")).write_bytes(b"cut")
    of(seed_run, "f")
    assert tuned == ["f", "f"]


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_text('{"rounds"')])
def test_a_record_that_was_lost_tells_of_the_training_again(seed_run, tuned, harm):
    of(seed_run, "f")
    harm(Path(seed_run.store.path("report.json")))
    report_json.begin(seed_run.store, seed=0)
    assert report_json.read(seed_run.store).training == {}
    of(seed_run, "f")
    assert report_json.read(seed_run.store).training["one_shot"].metrics == {"step": 1}
    assert tuned == ["f"]


# Which arms there are, and what each is fine-tuned on


def compared(arms=(), rounds=1, **sections):
    """A configuration that compares these arms on test images."""
    evaluation = {"test": {"kind": "digits"}, "arms": list(arms)}
    evaluation |= {"oracle": {"kind": "digits"}} if "oracle" in arms else {}
    return parse_config(CONFIG.model_dump(mode="json") | {"evaluation": evaluation, "rounds": rounds} | sections)


def seed_run_of(config: RunConfig, folder: Path, **inputs) -> SeedRun:
    report_json.begin(RunStore(folder), seed=3)
    sets = {"source": SOURCE, "target": SOURCE, "test": SOURCE, "source_test": None, "oracle": SOURCE}
    return SeedRun(config, SimpleNamespace(**sets | inputs), RunStore(folder), 3, Progress())


ACCEPTED = SimpleNamespace(fingerprint="f" * 64, dataset="own rows", report=SimpleNamespace(num_accepted=77))


def test_arms_are_shown_in_one_order_and_the_runs_own_is_among_them():
    assert arms.arms(compared(["oracle", "random", "pretrained"])) == ["pretrained", "random", "one_shot", "oracle"]
    assert arms.arms(compared(["random"], rounds=3)) == ["random", "adaptive"]
    assert arms.arms(compared(["one_shot", "adaptive", "weighted"], rounds=3)) == ["weighted", "one_shot", "adaptive"]
    assert arms.arms(compared(OF_ROUNDS, rounds=3)) == list(OF_ROUNDS)


@pytest.mark.parametrize(("rounds", "own"), [(1, "one_shot"), (3, "adaptive")])
def test_without_test_images_there_is_the_run_alone(rounds, own):
    given = CONFIG.model_dump(mode="json") | {"evaluation": {"arms": ["random", "pretrained"]}, "rounds": rounds}
    assert arms.arms(parse_config(given)) == [own]


def test_a_models_bytes_on_disk():
    """Two weights of each model, and of each fine-tuned arm the model and three checkpoints with AdamW's moments."""
    weights = build_task(CONFIG.task, CONFIG.model, SOURCE).build_model(0).state_dict().values()
    size, inputs = sum(tensor.nbytes for tensor in weights), SimpleNamespace(source=SOURCE)
    every = compared(["pretrained", "batch_norm", "random", "weighted"], rounds=3)
    assert training_bytes(every, inputs) == size * (2 + 3 * 10)  # random, weighted, adaptive
    assert training_bytes(CONFIG, inputs) == size * (2 + 10)


@dataclass(frozen=True)
class OneShot:
    """Rows accepted without rounds, all or so many."""

    rounds: RoundsConfig
    at_most: int | None = None

    def limit(self, at_most):
        return OneShot(self.rounds, at_most)


@pytest.fixture
def rows_by(monkeypatch):
    """Replace the sources of the arms' rows: each returns its name and arguments, and nothing is drawn."""

    def by(name):
        return lambda *given: (name, *given)

    for name in ("random_rows", "random_stream", "weighted_rows", "oracle_rows", "pseudo_labelled_rows"):
        monkeypatch.setattr(baselines, name, by(name))
    monkeypatch.setattr(arms, "sample_seed", lambda seed_run: SimpleNamespace(dataset=OneShot(seed_run.config.rounds)))
    monkeypatch.setattr(arms, "last_stream", by("last_stream"))
    monkeypatch.setattr(SeedRun, "proposal", lambda seed_run: "q")
    monkeypatch.setattr(SeedRun, "ratio", lambda seed_run, proposal, round=0: ("ratio of", proposal, round))


def test_each_arm_has_as_many_rows_of_its_own_kind(tmp_path, rows_by):
    config = compared(OF_ROUNDS, rounds=3)
    seed_run, before = seed_run_of(config, tmp_path), object()

    def rows(arm):
        return arm_rows(seed_run, arm, ACCEPTED, before)

    assert rows("adaptive") == "own rows"
    assert rows("one_shot") == OneShot(RoundsConfig(), 77)
    assert rows("random") == ("random_rows", config, "q", 77, 3)
    assert rows("weighted") == ("weighted_rows", config, "q", ("ratio of", "q", 0), 77, 3)
    assert rows("pseudo_labels") == ("pseudo_labelled_rows", before, SOURCE, 0.9, 77, 3, Share())
    assert rows("oracle") == ("oracle_rows", SOURCE, 77, 3)
    one_shot = seed_run_of(compared(["random"]), tmp_path / "one_shot")
    assert arm_rows(one_shot, "one_shot", ACCEPTED, before) == "own rows"


def test_a_stream_gives_fresh_rows_to_every_arm_of_proposals(tmp_path, rows_by):
    """400 steps of 64 rows take 25,600."""
    config = compared(["random", "weighted", "one_shot"], rounds=3, sampling={"num_accepted": 100, "mode": "stream"})
    seed_run = seed_run_of(config, tmp_path)
    assert arm_rows(seed_run, "adaptive", ACCEPTED, None) == ("last_stream", seed_run, ACCEPTED, 25_600)
    assert arm_rows(seed_run, "random", ACCEPTED, None) == ("random_stream", config, "q", 25_600, 3)
    assert arm_rows(seed_run, "weighted", ACCEPTED, None)[-2:] == (25_600, 3)
    name, one, rows, count = arm_rows(seed_run, "one_shot", ACCEPTED, None)
    assert (name, one.store.uri, count) == ("last_stream", seed_run.one_shot().store.uri, 25_600)
    assert rows.dataset == OneShot(RoundsConfig())


def test_one_shot_takes_the_first_rounds_ratio(tmp_path, rows_by):
    seed_run = seed_run_of(compared(["one_shot"], rounds=3), tmp_path)
    seed_run.store.commit_folder(
        "rounds/000/ratio", lambda folder: (folder / "ratio.json").write_text("of the first round")
    )
    arm_rows(seed_run, "one_shot", ACCEPTED, None)
    taken = seed_run.one_shot().store.load_folder(
        "rounds/000/ratio", lambda folder: (folder / "ratio.json").read_text()
    )
    assert taken == "of the first round"


@pytest.mark.parametrize("use_row_weights", [False, True])
def test_arms_are_fine_tuned_alike_but_for_their_rows_weights(use_row_weights, tmp_path, rows_by, monkeypatch):
    """`weighted` always has weights; accepted rows where the configuration asks for them; others never."""
    calls = []

    class Tuner:
        def __init__(self, task, training, **options):
            calls.append((training, options))

        def fit(self, rows):
            return "tuned"

    rows = SimpleNamespace(count=lambda: 55)
    monkeypatch.setattr(arms, "FineTuner", Tuner)
    monkeypatch.setattr(arms, "arm_rows", lambda *_: rows)
    config = compared(OF_ROUNDS, rounds=3, training={"steps": 7, "use_row_weights": use_row_weights})
    seed_run, before = seed_run_of(config, tmp_path), object()
    tuned = [arm for arm in OF_ROUNDS if arm not in arms.UNTRAINED]
    counts = {arm: fine_tune(seed_run, arm, ACCEPTED, before) for arm in tuned}
    assert counts == {arm: ("tuned", 77 if arm == "adaptive" else 55) for arm in tuned}
    weighted = [arm for arm, (training, _) in zip(tuned, calls, strict=True) if training.use_row_weights]
    assert weighted == (["weighted", "one_shot", "adaptive"] if use_row_weights else ["weighted"])
    for arm, (training, options) in zip(tuned, calls, strict=True):
        assert training.model_copy(update={"use_row_weights": use_row_weights}) == config.training
        assert (options["initial"], options["seed"], options["name"]) == (before, 3, f"{arm}-ffffffff")


def test_arms_that_are_not_fine_tuned(tmp_path, tuned, monkeypatch):
    asked = []

    def run_in_task(function, *arguments, share):
        asked.append((function, *arguments, share))
        return "adapted"

    monkeypatch.setattr(arms, "run_in_task", run_in_task)
    training = {"cpus_per_worker": 2, "use_gpu": True}
    seed_run, before = seed_run_of(compared(training=training), tmp_path), object()
    assert arm_model(seed_run, "pretrained", ACCEPTED, before) is before
    assert arm_model(seed_run, "batch_norm", ACCEPTED, before) == "adapted"
    assert asked == [(baselines.with_target_statistics, before, SOURCE, 3, Share(2, 1))]
    assert tuned == []


def test_a_seed_run_evaluates_every_arm_once_for_its_rows(tmp_path, tuned, monkeypatch):
    """Half of the test images are of class b; a model that says so of all of them is right on these."""
    evaluated = []

    def evaluate(models, images, share):
        assert share == Share()
        evaluated.append(list(models))
        truth = SOURCE.labels.numpy()
        return {} if images is None else {arm: Predictions(np.ones(4, np.int64), truth, 2) for arm in models}

    monkeypatch.setattr(arms, "predict_all", evaluate)
    seed_run = seed_run_of(compared(["random", "pretrained"], rounds=3), tmp_path)
    train_seed(seed_run, ACCEPTED)
    order = ["pretrained", "random", "adaptive"]
    assert evaluated == [order, order]  # on the target's images and the source's
    found = report_json.read(seed_run.store).evaluation
    assert (found.own_arm, found.fingerprint, found.num_test) == ("adaptive", "f" * 64, 4)
    assert (found.arms, found.source) == ({arm: [0.5] for arm in order}, {})
    assert found.by_class["adaptive"] == [0.0, 1.0]
    assert report_json.read(seed_run.store).training.keys() == {"random", "adaptive"}
    assert seed_run.store.exists("figures/predictions.npz")
    own = seed_run.store.load_folder(MODEL, seed_run.task().load)
    assert torch.equal(
        first_weight(own), first_weight(seed_run.store.load_folder("models/adaptive", seed_run.task().load))
    )
    train_seed(seed_run, ACCEPTED)
    assert (len(evaluated), len(tuned)) == (2, 2)
    other = SimpleNamespace(**vars(ACCEPTED) | {"fingerprint": "0" * 64})
    train_seed(seed_run, other)
    assert (len(evaluated), len(tuned)) == (4, 4)
    assert report_json.read(seed_run.store).evaluation.fingerprint == "0" * 64


def test_one_shot_beside_rounds_is_trained_again_on_other_rows_and_all_is_evaluated_again(tmp_path, tuned, monkeypatch):
    """Its rows may grow under a larger budget, while the run's own rows stay as they are."""
    drawn, evaluated = iter(["1" * 64, "1" * 64, "2" * 64]), []
    monkeypatch.setattr(arms, "sample_seed", lambda one: SimpleNamespace(fingerprint=next(drawn)))

    def evaluate(models, images, share):
        evaluated.append(list(models))
        return {arm: Predictions(np.ones(4, np.int64), SOURCE.labels.numpy(), 2) for arm in models}

    monkeypatch.setattr(arms, "predict_all", evaluate)
    seed_run = seed_run_of(compared(["one_shot"], rounds=3), tmp_path)
    for models_made, evaluations in ((2, 2), (2, 2), (3, 4)):
        train_seed(seed_run, ACCEPTED)
        assert (len(tuned), len(evaluated)) == (models_made, evaluations)
    assert report_json.read(seed_run.store).training["one_shot"].metrics == {"step": 3}
    assert report_json.read(seed_run.store).evaluation is not None


def test_checkpoints_of_one_shot_beside_rounds_are_those_of_its_own_rows(tmp_path, rows_by, monkeypatch):
    """A tuner of the same name would go on from, or return, a model of other rows."""
    made = []
    monkeypatch.setattr(arms, "FineTuner", lambda *_, name, **options: made.append(name) or SimpleNamespace(fit=repr))
    monkeypatch.setattr(arms, "arm_rows", lambda *_: SimpleNamespace(count=lambda: 55))
    seed_run = seed_run_of(compared(["one_shot"], rounds=3), tmp_path)
    for fingerprint in ("1" * 64, "2" * 64):
        fine_tune(seed_run, "one_shot", ACCEPTED, None, SimpleNamespace(fingerprint=fingerprint))
    assert made == ["one_shot-ffffffff-11111111", "one_shot-ffffffff-22222222"]


def first_weight(model):
    return next(model.parameters()).detach()


# What those arms take that train on no proposals


def grey(levels, size=8):
    """Flat images of these grey levels."""
    return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()


def normed(seed=0):
    """Batch norm first, then one logit, of grey images on the scale 0 to 1."""
    torch.manual_seed(seed)
    return ImageNetwork(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 1)), 1)


def test_batch_norm_takes_the_targets_mean_and_variance():
    # levels 51 and 153 in equal parts: means .2 and .6, so .4; variance .04, unbiased of 64 * 64 pixels
    model = normed()
    weights = [parameter.clone() for parameter in model.parameters()]
    layer = model.network[0]
    assert (layer.running_mean.item(), layer.running_var.item()) == (0.0, 1.0)
    adapted = baselines.with_target_statistics(model, ImageSet(grey([51, 153] * 32)), seed=0)
    layer = adapted.network[0]
    assert layer.running_mean.item() == pytest.approx(0.4, abs=1e-6)
    assert layer.running_var.item() == pytest.approx(0.04 * 4096 / 4095, abs=1e-6)
    assert not adapted.training
    assert layer.momentum == 0.1  # as it was
    assert all(torch.equal(*pair) for pair in zip(weights, adapted.parameters(), strict=True))


@pytest.mark.parametrize("count", [257, 600])
def test_of_many_target_images_all_count_alike(count):
    """Levels 0, but the last image, which alone would be a batch of 257: its share is 1/257, and not a half."""
    levels = grey([0] * (count - 1) + [255], size=1)
    model = ImageNetwork(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 1)), 1)
    mean = baselines.with_target_statistics(model, ImageSet(levels), seed=0).network[0].running_mean.item()
    assert mean == pytest.approx(1 / count, rel=0.01)


def test_a_model_without_batch_norm_has_no_such_arm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(InputError, match=r"evaluation\.arms=batch_norm: the model has no batch norm layers"):
        baselines.with_target_statistics(model, SOURCE, seed=0)


@pytest.fixture
def here(monkeypatch):
    """Controls without Ray: rows as they would be sent off, and what is remote in this process."""
    monkeypatch.setattr(baselines, "_dataset", lambda images, labels: (images, labels))
    monkeypatch.setattr(baselines.ray, "get", lambda given: given)
    monkeypatch.setattr(baselines, "limit_to_allocation", lambda: None)


def pseudo_labelled(monkeypatch, probability, confidence):
    """1,000 rows of ten target images, image i of level i, of which a model is so sure; it says class i."""
    sure = torch.tensor(probability), torch.arange(10)
    monkeypatch.setattr(baselines, "run_in_task", lambda function, *_, share: sure)
    images, labels = baselines.pseudo_labelled_rows(None, ImageSet(grey(range(10))), confidence, 1_000, 0, Share())
    assert images.shape == (1_000, 1, 8, 8)
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    return set(labels.tolist())


def test_pseudo_labels_are_those_that_the_model_is_sure_of(here, monkeypatch):
    """Each of three or more images is left out of 1,000 draws with probability below 1e-17."""
    probability = [0.9, 0.5, 0.95, 0.2, 0.899, 0.1, 0.99, 0.3, 0.4, 0.6]
    assert pseudo_labelled(monkeypatch, probability, 0.9) == {0, 2, 6}
    assert pseudo_labelled(monkeypatch, probability, 0.05) == set(range(10))
    assert pseudo_labelled(monkeypatch, probability, 0.999) == {6}  # a tenth whatever it is


def test_a_prediction_is_the_likeliest_class(here):
    class Fixed(nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])[images[:, 0, 0, 0].long()]

    probability, label = baselines._predicted(Fixed(), grey([0, 1, 0] * 200))
    assert label.tolist() == [1, 0, 1] * 200
    assert probability.tolist() == pytest.approx([0.75, 0.8, 0.75] * 200)


def test_random_rows_are_weighted_by_the_ratio(here):
    columns = {"label": torch.tensor([0, 1, 2]), "weight": torch.ones(3), "x": torch.zeros(3)}
    rows = to_table(columns | {"log_ratio": torch.zeros(3, dtype=torch.float64)})
    ratio = LabelShiftRatio([0.1, 0.9, 0.0], [0.4, 0.3, 0.3])
    scored = baselines._score(rows, ratio)
    weighted = baselines._weigh(scored, max(scored["log_ratio"].to_pylist()))
    assert weighted["weight"].to_pylist() == pytest.approx([0.25 / 3.0, 1.0, 0.0])
    assert weighted.schema == rows.schema
    assert weighted.drop(["weight", "log_ratio"]) == rows.drop(["weight", "log_ratio"])


@pytest.mark.parametrize("constant", [-1_000.0, 0.0, 1_000.0])
def test_weights_are_finite_and_not_all_zero_whatever_constant_the_target_lacks(constant):
    log_ratio = torch.tensor([0.0, -1.0, -2.0], dtype=torch.float64) + constant
    rows = to_table({"weight": torch.ones(3), "log_ratio": log_ratio})
    weights = baselines._weigh(rows, float(log_ratio.max()))["weight"].to_pylist()
    assert weights == pytest.approx([1.0, np.exp(-1), np.exp(-2)])
