"""What a configuration's kinds become, users' own among them, and how what cannot work is refused at once."""

import copy
import math
import sys
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, Uniform

from rsf_dist.builders.components import build_envelope, build_proposal, build_task
from rsf_dist.builders.context import RatioContext
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.preflight import preflight
from rsf_dist.builders.prior_estimation import class_prior
from rsf_dist.builders.ratio import make_ratio
from rsf_dist.config.load import parse_config
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, located
from rsf_dist.models.networks import ExpectedImages
from rsf_dist.proposals import AugmentProposal, DistributionProposal, GeneratorProposal
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, ProductRatio, RewardRatio, VerifierRatio
from rsf_dist.runtime import user_code
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.envelope import AdaptiveEnvelope, BudgetEnvelope, CertifiedEnvelope, FixedEnvelope, PilotEnvelope
from rsf_dist.tasks import ClassificationTask

MODULE = '''
import torch
from torch import nn
from rsf_dist.sampling.envelope import Choice
from rsf_dist.ratios import ConstantRatio
from rsf_dist.tasks import ClassificationTask


class Grey:
    """Proposals of one grey level, labelled 0."""

    def __init__(self, source, level=128, labelled=True):
        self.source, self.level, self.labelled = source, level, labelled

    def sample(self, n, rng):
        rows = {"image": torch.full((n, *self.source.images.shape[1:]), self.level, dtype=torch.uint8)}
        return rows | ({"label": torch.zeros(n, dtype=torch.int64)} if self.labelled else {})


class Shades(nn.Module):
    """A generator of one grey level an image, brighter for class 1."""

    def __init__(self, source, level=0.25, size=None):
        super().__init__()
        self.shape, self.level = (size or source.images.shape[1:]), level

    def forward(self, z, y):
        return (self.level + 0.5 * y + 0.0 * z[:, 0])[:, None, None, None].expand(-1, *self.shape)


class Unlabelled(Shades):
    def forward(self, z):
        return super().forward(z, 0)


class Steady:
    """An envelope."""

    def __init__(self, log_m=2.0, num_pilot=10):
        self.log_m, self.num_pilot = log_m, num_pilot

    def choose(self, pilot):
        return Choice(self.log_m, "mine")


def bright(batch, scale=1.0):
    return scale * batch["image"].float().mean(dim=(1, 2, 3)) / 255


def is_bright(batch, above=0.5):
    return bright(batch) > above


def column(batch):
    return bright(batch)[:, None]


def ratio(target, proposal, seed, constant=0.0):
    made = ConstantRatio()
    made.given = (len(target), type(proposal).__name__, seed, constant)
    return made


def task(classes, model, channels, smoothing=0.0):
    made = ClassificationTask(classes, model, channels)
    made.smoothing = smoothing
    return made


def network(num_outputs, channels, hidden=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, hidden), nn.ReLU(), nn.Linear(hidden, num_outputs))


def nothing(**given):
    return 3


def fails(**given):
    raise KeyError("weights")
'''
MINIMAL = {
    "output": "runs/one",
    "source": {"kind": "digits"},
    "target": {"kind": "digits"},
    "sampling": {"num_accepted": 100},
    "model": {"width": 4},
    "ratio": {"kind": "reward", "score": "my_kinds:bright"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_kinds.py").write_text(MODULE)
    (tmp_path / "my_ruin.py").write_text("import my_kinds\nmy_kinds.no_such_thing\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    user_code.allow_folder(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def image_set(n=40, labels=True):
    images = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(n) % 2, ("a", "b")) if labels else ImageSet(images)


def inputs():
    return Inputs(image_set(), image_set(50, labels=False), None, None, None)


def having(**sections):
    return parse_config(copy.deepcopy(MINIMAL) | sections)


def reported_error(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    error = caught.value
    assert "\n" not in str(error)
    assert error.field
    assert error.rule
    assert error.remedy
    assert error.exit_code == 2
    return error


TURNING = {"parameters": {"rotation": {"uniform": [-1, 1]}, "scale": {"normal": [1.0, 0.2]}}}
OWN = {"kind": "custom", "factory": "my_kinds:Grey"}
GENERATED = {"kind": "generator", "factory": "my_kinds:Shades", "latent_dim": 3}


@pytest.mark.parametrize(
    ("raw", "built"),
    [
        ({"kind": "fixed", "log_m": 1.5}, FixedEnvelope(1.5)),
        ({"kind": "certified", "num_pilot": 7}, CertifiedEnvelope(7)),
        ({"kind": "pilot", "num_pilot": 7, "margin": 0.5}, PilotEnvelope(7, 0.5)),
        ({"kind": "adaptive", "num_pilot": 7, "margin": 0.5}, AdaptiveEnvelope(7, 0.5)),
        ({"kind": "budget", "acceptance": 0.5, "num_pilot": 70}, BudgetEnvelope(0.5, 70)),
        ({"kind": "adaptive"}, AdaptiveEnvelope()),
        ({"kind": "certified"}, CertifiedEnvelope()),
        ({"kind": "pilot"}, PilotEnvelope()),
    ],
)
def test_envelopes(raw, built):
    assert build_envelope(having(envelope=raw).envelope) == built


def test_an_envelope_of_ones_own():
    config = having(envelope={"kind": "custom", "factory": "my_kinds:Steady", "options": {"log_m": 3.0}})
    envelope = build_envelope(config.envelope)
    assert (envelope.num_pilot, envelope.choose(None).log_m) == (10, 3.0)


def test_a_proposal_of_ones_own():
    config = having(proposal={**OWN, "options": {"level": 9}})
    rows = build_proposal(config.proposal, image_set()).sample(3, Streams(0))
    assert rows["image"].shape == (3, 1, 8, 8)
    assert rows["image"].unique().tolist() == [9]


def test_a_generator_of_ones_own():
    config = having(proposal={**GENERATED, "options": {"level": 0.2}})
    proposal = build_proposal(config.proposal, image_set(30).subset(slice(29)))
    assert isinstance(proposal, GeneratorProposal)
    assert proposal.class_prior.tolist() == pytest.approx([15 / 29, 14 / 29])  # as among the source images
    rows = proposal.sample(40, Streams(0))
    assert rows["image"].shape == (40, 1, 8, 8)
    assert torch.equal(rows["image"].amax(dim=(1, 2, 3)) > 100, rows["label"] == 1)
    assert rows["latent"].shape == (40, 3)
    row = {"latent": torch.zeros(1, 3), "label": torch.tensor([0])}
    # N(0, I) of three numbers at 0, in class a
    assert proposal.log_prob(row).item() == pytest.approx(-1.5 * math.log(2 * math.pi) + math.log(15 / 29))
    other = build_proposal(having(proposal={**GENERATED, "class_prior": [1, 3]}).proposal, image_set())
    assert other.class_prior.tolist() == [0.25, 0.75]


def test_augmented_proposals_need_no_kind():
    proposal = build_proposal(having(proposal=TURNING).proposal, image_set())
    assert isinstance(proposal, AugmentProposal)
    assert isinstance(proposal.parameters["rotation"], Uniform)
    assert isinstance(proposal.parameters["scale"], Normal)


@pytest.mark.parametrize(
    ("ratio", "bounded"),
    [
        ({}, False),
        ({"calibration": "isotonic"}, True),
        ({"max_log_ratio": 2.0}, True),
        ({"kind": "reward", "score": "my_kinds:column"}, False),
        ({"kind": "label_shift"}, True),
        ({"kind": "product", "factors": [{"kind": "label_shift"}, {}]}, False),
    ],
)
def test_a_certified_envelope_needs_a_ratio_with_a_bound(ratio, bounded):
    assert having(ratio=ratio).ratio.may_have_bound == bounded


def test_a_certified_envelope_without_a_bound_is_refused_before_anything_is_drawn():
    error = reported_error(preflight, having(envelope={"kind": "certified"}), inputs())
    assert (error.field, error.value) == ("envelope.kind", "certified")


def test_exact_kinds_are_exact_by_default():
    assert having(ratio={"kind": "label_shift"}).envelope.kind == "certified"
    assert having(ratio={"kind": "verifier", "passes": "a:b"}).envelope.kind == "certified"
    assert having(ratio={"kind": "reward", "score": "a:b"}).envelope.kind == "budget"
    assert having().envelope.kind == "budget"


def test_the_feature_network_is_built_early_and_is_not_the_ratios_network():
    odd = having(evaluation={"feature_network": {"name": "no_such_net"}})
    assert reported_error(preflight, odd, inputs()).field == "evaluation.feature_network.name"
    network = {"name": "small_cnn", "width": 16, "dropout": 0.5}
    error = reported_error(having, ratio={"network": network}, evaluation={"feature_network": network})
    assert "another network" in error.rule


def built(raw, proposal=None, seed=5, config=TURNING):
    parsed = having(ratio=raw, proposal=config)
    proposal = proposal or build_proposal(parsed.proposal, image_set())
    return make_ratio(parsed.ratio, RatioContext(inputs(), proposal, seed))


def test_rewards_and_verifiers_of_ones_own():
    batch = {"image": torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)}
    reward = built({"kind": "reward", "score": "my_kinds:bright", "beta": 0.5, "max_score": 4, "options": {"scale": 3}})
    assert isinstance(reward, RewardRatio)
    assert reward.log_ratio(batch).tolist() == pytest.approx([0.0, 6.0])
    assert reward.log_bound == 8.0
    verifier = built({"kind": "verifier", "passes": "my_kinds:is_bright", "options": {"above": 0.9}})
    assert isinstance(verifier, VerifierRatio)
    assert verifier.log_ratio(batch).tolist() == [-torch.inf, 0.0]
    assert (reward.info.columns, verifier.info.columns) == (None, None)


@pytest.mark.parametrize(
    "kind", [{"kind": "reward", "score": "my_kinds:bright"}, {"kind": "verifier", "passes": "my_kinds:is_bright"}]
)
def test_the_columns_that_a_function_looks_at(kind):
    assert built(kind | {"columns": ["label", "rotation"]}).info.columns == ("label", "rotation")


def test_a_known_label_shift():
    ratio = built({"kind": "label_shift", "target_prior": [0.25, 0.75]})
    assert isinstance(ratio, LabelShiftRatio)
    assert ratio.proposal_prior.tolist() == [0.5, 0.5]
    assert ratio.target_prior.tolist() == [0.25, 0.75]
    assert ratio.estimate is None


def test_distributions_of_one_and_of_several_parameters():
    one = built({"kind": "density", "parameters": {"scale": {"normal": [1.0, 0.1]}}})
    assert isinstance(one, DensityRatio)
    assert one.proposal.column == "scale"
    # sd .1 in sd .2: M = 2
    assert one.log_bound == pytest.approx(0.6931, abs=1e-4)
    both = built({"kind": "density", "parameters": {"scale": {"normal": [1, 0.1]}, "rotation": {"uniform": [0, 1]}}})
    assert isinstance(both, ProductRatio)
    # at scale 1 and rotation 1/2: 2 times (1 over 1/2); outside of [0, 1]: 0
    batch = {"scale": torch.ones(2), "rotation": torch.tensor([0.5, -0.5])}
    assert both.log_ratio(batch).tolist() == pytest.approx([1.3863, -torch.inf], abs=1e-4)


def test_a_ratio_of_ones_own():
    raw = {"kind": "custom", "factory": "my_kinds:ratio", "options": {"constant": 2.0}}
    assert built(raw).given == (50, "AugmentProposal", 5, 2.0)


def test_a_product_of_what_needs_no_fit():
    factors = [{"kind": "verifier", "passes": "my_kinds:is_bright"}, {"kind": "reward", "score": "my_kinds:bright"}]
    config = having(ratio={"kind": "product", "factors": factors})
    ratio = make_ratio(config.ratio, RatioContext(inputs(), build_proposal(config.proposal, image_set()), 0))
    assert [type(factor) for factor in ratio.factors] == [VerifierRatio, RewardRatio]


@pytest.mark.parametrize("raw", [{}, {"kind": "label_shift"}])
def test_what_needs_the_cluster_is_not_made_before_it_is_joined(raw, monkeypatch):
    made = []
    monkeypatch.setattr("rsf_dist.builders.preflight.make_ratio", lambda config, context: made.append(config))
    monkeypatch.setattr("rsf_dist.builders.preflight.try_chunk", lambda *_: None)
    preflight(having(ratio=raw, proposal=TURNING), inputs())
    assert made == []
    preflight(
        having(ratio={"kind": "verifier", "passes": "my_kinds:is_bright"}, envelope={"kind": "fixed", "log_m": 0}),
        inputs(),
    )
    assert len(made) == 1  # the control: what needs no cluster is made


def test_tasks():
    config = having()
    assert isinstance(build_task(config.task, config.model, image_set()), ClassificationTask)
    fitted = replace(image_set(), resize="fit", bits=12)
    spec = build_task(config.task, config.model, fitted).spec
    assert spec.images == ExpectedImages(tuple(fitted.images.shape[2:]), "fit", 12)
    own = having(task={"kind": "custom", "factory": "my_kinds:task", "options": {"smoothing": 0.1}})
    task = build_task(own.task, own.model, image_set())
    assert (task.smoothing, task.spec.num_outputs, task.spec.channels) == (0.1, 2, 1)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"proposal": TURNING},
        {"proposal": OWN},
        {"proposal": GENERATED},
        {"proposal": GENERATED, "ratio": {"kind": "label_shift", "target_prior": [0.1, 0.9]}},
        {"ratio": {"network": {"width": 4}}},
        {"ratio": {"network": {"name": "my_kinds:network", "options": {"hidden": 2}}}},
        {"ratio": {"kind": "verifier", "passes": "my_kinds:is_bright"}},
        {"ratio": {"kind": "label_shift", "network": {"width": 4}}},
        {"ratio": {"kind": "label_shift", "target_prior": [0.1, 0.9]}},
        {"ratio": {"kind": "custom", "factory": "my_kinds:fails"}},  # it may take its time: not called here
        {
            "ratio": {
                "kind": "product",
                "factors": [{"kind": "verifier", "passes": "my_kinds:is_bright"}, {"network": {"width": 4}}],
            }
        },
        {"task": {"kind": "custom", "factory": "my_kinds:task"}},
        {"envelope": {"kind": "custom", "factory": "my_kinds:Steady"}},
        {"model": {"name": "my_kinds:network"}},
    ],
)
def test_what_can_work_passes(sections):
    preflight(having(**sections), inputs())


def product(second):
    return {"kind": "product", "factors": [{"kind": "reward", "score": "my_kinds:bright"}, second]}


@pytest.mark.parametrize(
    ("sections", "field", "rule"),
    [
        ({"proposal": {**OWN, "factory": "my_absent:Grey"}}, "proposal.factory", "cannot be imported (ModuleNotFound"),
        ({"proposal": {**OWN, "factory": "my_kinds:Gray"}}, "proposal.factory", "has no class or function Gray"),
        ({"proposal": {**OWN, "factory": "my_ruin:Grey"}}, "proposal.factory", "cannot be imported (AttributeError"),
        ({"proposal": {**OWN, "factory": "my_kinds:MODULE"}}, "proposal.factory", "has no class or function"),
        (
            {"proposal": {**OWN, "factory": "my_kinds:nothing"}},
            "proposal.factory",
            "gives a int, which lacks something of a Proposal",
        ),
        ({"proposal": {**OWN, "factory": "my_kinds:fails"}}, "proposal.factory", "refuses its arguments (KeyError"),
        ({"proposal": {**OWN, "options": {"colour": 1}}}, "proposal.factory", "unexpected keyword argument 'colour'"),
        ({"proposal": {**OWN, "options": {"labelled": False}}}, "proposal", "its rows lack the column label"),
        ({"proposal": {**OWN, "options": {"level": 999}}}, "proposal", "fails to give 32 rows (RuntimeError"),
        ({"proposal": {"class_prior": [1]}}, "proposal.class_prior", "must be 2 probabilities"),
        ({"proposal": {**GENERATED, "class_prior": [1]}}, "proposal.class_prior", "must be 2 probabilities"),
        ({"proposal": {**GENERATED, "class_prior": [0, 0]}}, "proposal.class_prior", "must be 2 probabilities"),
        ({"proposal": {**GENERATED, "factory": "my_kinds:Grey"}}, "proposal.factory", "gives a Grey"),
        ({"proposal": {**GENERATED, "factory": "my_kinds:fails"}}, "proposal.factory", "KeyError"),
        ({"proposal": {**GENERATED, "options": {"size": [1, 4, 4]}}}, "proposal", "must be images uint8 [32, 1, 8, 8]"),
        ({"proposal": {**GENERATED, "options": {"level": float("nan")}}}, "proposal", "NaN or infinite"),
        ({"proposal": {**GENERATED, "factory": "my_kinds:Unlabelled"}}, "proposal", "takes 2 positional arguments"),
        ({"proposal": {"transforms": [{"name": "Spin"}]}}, "proposal.transforms.0.name", "is no transform"),
        (
            {"proposal": {"transforms": [{"name": "Resize", "options": {"size": [4, 4]}}]}},
            "proposal",
            "32 proposals must be images uint8 [32, 1, 8, 8]",
        ),
        ({"ratio": {"kind": "reward", "score": "my_kinds:bride"}}, "ratio.score", "has no class or function bride"),
        (
            {"ratio": {"kind": "reward", "score": "my_kinds:bright", "options": {"x": 1}}},
            "ratio.score",
            "unexpected keyword argument 'x'",
        ),
        ({"ratio": {"kind": "reward", "score": "my_kinds:column"}}, "ratio.score", "must be [32]"),
        ({"ratio": {"kind": "verifier", "passes": "my_kinds:bright"}}, "ratio.passes", "must be torch.bool [32]"),
        ({"ratio": {"kind": "verifier", "passes": "my_none:f"}}, "ratio.passes", "cannot be imported"),
        ({"ratio": {"kind": "custom", "factory": "my_kinds:ration"}}, "ratio.factory", "has no class or function"),
        ({"ratio": {"kind": "label_shift", "target_prior": [1.0]}}, "ratio.target_prior", "must have the 2 classes"),
        (
            {"ratio": {"kind": "label_shift", "target_prior": [0.5, 0.9]}},
            "ratio.target_prior",
            "probabilities of sum 1",
        ),
        ({"ratio": {"kind": "label_shift"}, "proposal": OWN}, "ratio", "needs the proposal's class_prior"),
        (
            {"ratio": {"kind": "density", "parameters": {"noise": {"uniform": [0, 1]}}}, "proposal": TURNING},
            "ratio.parameters",
            "draws no such parameter",
        ),
        (
            {"ratio": {"kind": "density", "parameters": {"noise": {"uniform": [0, 1]}}}, "proposal": OWN},
            "ratio.parameters",
            "draws no such parameter",
        ),
        ({"ratio": {"network": {"name": "resnet19"}}}, "ratio.network.name", "no such network"),
        ({"ratio": {"network": {"name": "my_kinds:nothing"}}}, "ratio.network.name", "gives a int"),
        ({"ratio": {"network": {"name": "mlp"}}}, "ratio.network", "fails on a first batch"),
        (
            {"ratio": {"network": {"name": "my_kinds:network", "options": {"deep": 1}}}},
            "ratio.network.name",
            "unexpected keyword argument 'deep'",
        ),
        ({"ratio": product({"network": {"name": "resnet19"}})}, "ratio.factors.1.network.name", "no such network"),
        ({"ratio": product({"kind": "custom", "factory": "my_none:f"})}, "ratio.factors.1.factory", "be imported"),
        ({"ratio": product({"kind": "verifier", "passes": "my_none:f"})}, "ratio.factors.1.passes", "be imported"),
        ({"ratio": product({"kind": "label_shift"}), "proposal": OWN}, "ratio.factors.1", "class_prior"),
        ({"envelope": {"kind": "custom", "factory": "my_kinds:Stead"}}, "envelope.factory", "has no class or function"),
        ({"envelope": {"kind": "custom", "factory": "my_kinds:fails"}}, "envelope.factory", "KeyError"),
        ({"task": {"kind": "custom", "factory": "my_none:task"}}, "task.factory", "cannot be imported"),
        ({"task": {"kind": "custom", "factory": "my_kinds:task", "options": {"x": 1}}}, "task.factory", "argument 'x'"),
        ({"model": {"name": "my_kinds:nothing"}}, "model.name", "gives a int"),
        ({"model": {"name": "my_kinds:fails"}}, "model.name", "refuses its arguments (KeyError: 'weights')"),
        ({"model": {"name": "my_kinds:netwrk"}}, "model.name", "has no class or function netwrk"),
        ({"model": {"name": "mlp"}}, "model", "fails on a first batch"),
    ],
)
def test_what_cannot_work_is_refused_early(sections, field, rule):
    error = reported_error(preflight, having(**sections), inputs())
    assert error.field == field
    assert rule in error.rule


def test_a_factory_that_gives_no_ratio():
    raw = {"kind": "custom", "factory": "my_kinds:nothing"}
    error = reported_error(built, raw)
    assert (error.field, error.rule) == ("factory", "gives a int, which lacks something of a Ratio")
    nested = reported_error(make_ratio, having(ratio=product(raw)).ratio, RatioContext(inputs(), None, 0))
    assert nested.field == "factors.1.factory"


def test_a_proposal_without_a_class_prior():
    with pytest.raises(InputError) as caught, located("ratio.factors.1"):
        class_prior(DistributionProposal(Normal(0.0, 1.0)))
    assert (caught.value.field, caught.value.value) == ("ratio.factors.1", "DistributionProposal")


@pytest.mark.parametrize(
    ("sections", "field", "rule"),
    [
        ({"ratio": {"kind": "reward"}}, "ratio.score", "is required"),
        ({"ratio": {"kind": "reward", "score": "my_kinds"}}, "ratio.score", "must be an import path"),
        ({"ratio": {"kind": "reward", "score": "a:b()"}}, "ratio.score", "must be an import path"),
        ({"ratio": {"kind": "reward", "score": "a:b", "beta": 0}}, "ratio.beta", "greater than 0"),
        ({"ratio": {"kind": "reward", "score": "a:b", "max_score": float("inf")}}, "ratio.max_score", "finite"),
        ({"ratio": {"kind": "verifier", "passes": 3}}, "ratio.passes", "must be text"),
        ({"ratio": {"kind": "density", "parameters": {}}}, "ratio.parameters", "at least 1 item"),
        ({"ratio": {"kind": "density", "parameters": {"rotation": {}}}}, "ratio.parameters.rotation", "exactly one of"),
        ({"ratio": {"kind": "label_shift", "target_prior": [-1, 2]}}, "ratio.target_prior.0", "greater than or equal"),
        ({"ratio": {"kind": "label_shift", "method": "rlls"}}, "ratio.method", "'em' or 'bbse'"),
        ({"ratio": {"kind": "product", "factors": [{}]}}, "ratio.factors", "at least 2 items"),
        ({"ratio": {"kind": "product", "factors": [{}, {"kind": "x"}]}}, "ratio.factors.1.kind", "must be one of"),
        (
            {"ratio": {"kind": "produkt"}},
            "ratio.kind",
            "classifier, label_shift, density, reward, verifier, custom, prod",
        ),
        ({"ratio": 3}, "ratio", "must hold keys and values"),
        ({"ratio": None}, "ratio", "must hold keys and values"),
        ({"ratio": {"kind": ["reward"]}}, "ratio.kind", "must be one of"),
        ({"ratio": {"relative_alpha": 0.5}}, "ratio.relative_alpha", "was removed"),
        ({"ratio": {"ensemble": 0}}, "ratio.ensemble", "greater than 0"),
        ({"ratio": {"calibration": "beta"}}, "ratio.calibration", "'isotonic'"),
        ({"ratio": {"max_log_ratio": float("nan")}}, "ratio.max_log_ratio", "finite"),
        ({"proposal": {"kind": "custom"}}, "proposal.factory", "is required"),
        ({"proposal": {"kind": "gan"}}, "proposal.kind", "must be one of augment, generator, dataset, custom"),
        ({"proposal": {"kind": "generator", "factory": "x:y"}}, "proposal.latent_dim", "is required"),
        ({"proposal": {**GENERATED, "latent_dim": 0}}, "proposal.latent_dim", "greater than 0"),
        ({"proposal": {**GENERATED, "class_prior": [-1, 2]}}, "proposal.class_prior.0", "greater than or equal to 0"),
        ({"task": {"kind": "detection"}}, "task.kind", "must be one of classification, custom"),
        ({"task": {"kind": "custom", "factory": "a.b"}}, "task.factory", "must be an import path"),
        ({"envelope": {"kind": "adaptive", "margin": -1}}, "envelope.margin", "greater than or equal to 0"),
        ({"envelope": {"kind": "certified", "num_pilot": 0}}, "envelope.num_pilot", "greater than 0"),
        ({"envelope": {"kind": "custom", "factory": "x:"}}, "envelope.factory", "must be an import path"),
        ({"envelope": "pilot"}, "envelope", "must hold keys and values"),
        ({"model": {"depth": 0}}, "model.depth", "greater than 0"),
    ],
)
def test_configurations_that_are_refused(sections, field, rule):
    error = reported_error(having, **sections)
    assert error.field == field
    assert rule in error.rule


@pytest.mark.parametrize(("given", "meant"), [("rewards", "reward"), ("labelshift", "label_shift")])
def test_a_misspelt_kind_is_named(given, meant):
    assert reported_error(having, ratio={"kind": given}).remedy == f"did you mean {meant}?"
    assert reported_error(having, ratio={"kind": "xyz"}).remedy == "choose one of these"


def test_a_kind_that_may_be_left_out_is():
    assert having(ratio={}).ratio.kind == "classifier"
    assert having(proposal={}).proposal.kind == "augment"
    assert having(task={}).task.kind == "classification"
    assert reported_error(having, envelope={}).field == "envelope.kind"


@pytest.mark.parametrize("section", ["envelope", "ratio", "proposal", "task"])
def test_a_kind_that_is_empty(section):
    assert reported_error(having, **{section: {"kind": None}}).field == f"{section}.kind"


@pytest.mark.parametrize(
    ("sections", "known"),
    [
        ({"envelope": {"kind": "certified", "margin": 1.0}}, "kind, num_pilot"),
        ({"envelope": {"kind": "fixed", "log_m": 0, "num_pilot": 9}}, "kind, log_m"),
        ({"ratio": {"kind": "verifier", "passes": "a:b", "beta": 2.0}}, "columns, kind, options, passes"),
    ],
)
def test_a_key_of_another_kind(sections, known):
    error = reported_error(having, **sections)
    assert error.rule == "unknown key"
    assert error.remedy == f"known here: {known}"


def test_a_factory_that_gives_no_envelope():
    config = having(envelope={"kind": "custom", "factory": "my_kinds:nothing"})
    assert reported_error(preflight, config, inputs()).field == "envelope.factory"


def test_a_factory_that_gives_no_task():
    config = having(task={"kind": "custom", "factory": "my_kinds:nothing"})
    assert reported_error(preflight, config, inputs()).field == "task.factory"


@pytest.mark.parametrize(
    "sections",
    [
        {"proposal": {**OWN, "options": {"source": 1}}},
        {"proposal": {**OWN, "options": {"path": "weights.pt"}}},
        {"envelope": {"kind": "custom", "factory": "my_kinds:Steady", "options": {"field": 1}}},
    ],
)
def test_options_that_collide_are_refused(sections):
    assert reported_error(preflight, having(**sections), inputs()).field.endswith(".factory")


@pytest.mark.parametrize(
    ("factor", "field"),
    [
        ({"kind": "reward", "score": "my_kinds:column"}, "ratio.factors.1.score"),
        ({"kind": "verifier", "passes": "my_kinds:bright"}, "ratio.factors.1.passes"),
        ({"kind": "label_shift", "target_prior": [0.5, 0.9]}, "ratio.factors.1.target_prior"),
    ],
)
def test_a_factor_is_named_by_its_place(factor, field):
    assert reported_error(preflight, having(ratio=product(factor)), inputs()).field == field


def test_options_of_a_network_that_takes_none():
    assert reported_error(having, model={"name": "small_cnn", "options": {"widht": 8}}).field.startswith("model")
