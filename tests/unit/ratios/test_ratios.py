import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

from rsf_dist.config.model import OptimizerConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig, RatioOptimizerConfig
from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.models.networks import Network
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import ClassifierRatio, ConstantRatio, DensityRatio, LabelShiftRatio, Ratio
from rsf_dist.ratios.calibration import calibrate
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.classifier import (
    Split,
    build_network,
    evaluate_ratio,
    fit_network,
    member_seed,
    network_spec,
    split_samples,
)
from rsf_dist.sampling.diagnostics import target_side_bound

WIDE = DistributionProposal(Normal(0.0, 2.0))
QUICK = ClassifierRatioConfig(
    network=RatioNetworkConfig(width=4, dropout=0.0),
    optimizer=RatioOptimizerConfig(steps=120, batch_size=128, learning_rate=1e-2, weight_decay=0.0),
    calibration_fraction=0.3,
    test_fraction=0.3,
)


def grey_images(mean, n, seed):
    """Flat images whose grey level follows N(mean, 30)."""
    levels = np.random.default_rng(seed).normal(mean, 30, n).round().clip(0, 255).astype(np.uint8)
    return torch.from_numpy(levels).reshape(-1, 1, 1, 1).expand(-1, 1, 6, 6).contiguous()


@pytest.fixture(scope="module")
def fitted():
    return ClassifierRatio.fit(grey_images(140, 1500, 0), grey_images(110, 3000, 1), QUICK, seed=2)


def test_density_ratio_by_hand():
    # N(0, 1) over N(0, 2): log 2 - x^2/2 + x^2/8, so log 2 at 0 and log 2 - 3/2 at 2
    found = DensityRatio(Normal(0.0, 1.0), WIDE).log_ratio({"x": torch.tensor([0.0, 2.0])})
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([math.log(2), math.log(2) - 1.5], abs=1e-6)


@pytest.mark.parametrize("bound", [None, 0.5])
def test_unnormalised_callable_differs_by_its_constant(bound):
    # without -log(2 pi)/2 the log ratio is .919 larger, everywhere
    ratio = DensityRatio(lambda x: -(x**2) / 2, WIDE, log_bound=bound)
    x = {"x": torch.tensor([0.0, 1.0, -3.0])}
    difference = ratio.log_ratio(x) - DensityRatio(Normal(0.0, 1.0), WIDE).log_ratio(x)
    assert difference.tolist() == pytest.approx([0.5 * math.log(2 * math.pi)] * 3, abs=1e-6)
    assert ratio.log_bound == bound


def test_anything_with_log_prob_is_a_target():
    class Target:
        def log_prob(self, x):
            return -x

    assert DensityRatio(Target(), DistributionProposal(Uniform(0.0, 1.0))).log_ratio(
        {"x": torch.tensor([0.25])}
    ).tolist() == [-0.25]


def test_outside_of_the_targets_support_the_ratio_is_zero():
    ratio = DensityRatio(Uniform(0.0, 1.0), DistributionProposal(Uniform(-1.0, 3.0)))
    found = ratio.log_ratio({"x": torch.tensor([-0.5, 0.5, 2.0])})
    # inside: density 1 over density 1/4
    assert found.tolist() == pytest.approx([-math.inf, math.log(4), -math.inf])


def test_multivariate_ratio_by_hand():
    # at 0: sqrt(|4 I| / |I|) = 4 in two dimensions
    wide = DistributionProposal(MultivariateNormal(torch.zeros(2), 4 * torch.eye(2)), column="z")
    ratio = DensityRatio(MultivariateNormal(torch.zeros(2), torch.eye(2)), wide)
    assert ratio.log_ratio({"z": torch.zeros(1, 2)}).tolist() == pytest.approx([math.log(4)])


def test_density_ratio_refusals():
    with pytest.raises(InputError, match="has no log_prob and cannot be called"):
        DensityRatio(3.0, WIDE)
    with pytest.raises(InputError, match=r"column=x: is not among the rows' \['y'\]"):
        DensityRatio(Normal(0.0, 1.0), WIDE).log_ratio({"y": torch.zeros(3)})
    with pytest.raises(InputError, match=r"target=\[3, 1\]: log p must have shape \[3\]"):
        DensityRatio(lambda x: x[:, None], WIDE).log_ratio({"x": torch.zeros(3)})


@pytest.mark.parametrize("n", [3, 5])
def test_a_batch_of_target_distributions_is_refused(n):
    # with n = 3 each row would meet a density of its own
    with pytest.raises(InputError, match="target"):
        DensityRatio(Normal(torch.zeros(3), torch.ones(3)), WIDE).log_ratio({"x": torch.zeros(n)})


def test_a_target_over_other_events_is_refused():
    plane = DistributionProposal(Independent(Normal(torch.zeros(2), torch.ones(2)), 1))
    with pytest.raises(InputError, match="target"):
        DensityRatio(Normal(0.0, 1.0), plane).log_ratio({"x": torch.zeros(4, 2)})


def test_constant_ratio():
    assert ConstantRatio().log_ratio({"image": torch.zeros(3, 1, 2, 2)}).tolist() == [0.0, 0.0, 0.0]
    assert isinstance(ConstantRatio(), Ratio)
    assert isinstance(DensityRatio(Normal(0.0, 1.0), WIDE), Ratio)


def test_classifier_learns_the_ratio(fitted):
    # N(140, 30) over N(110, 30) at level x: ((x - 110)^2 - (x - 140)^2) / 1800 = (x - 125)/30
    levels = torch.arange(60, 191, dtype=torch.uint8)
    found = fitted.log_ratio({"image": levels.reshape(-1, 1, 1, 1).expand(-1, 1, 6, 6)}).numpy()
    true = (levels.numpy().astype(float) - 125) / 30
    assert np.corrcoef(found, true)[0, 1] > 0.97
    slope, intercept = np.polyfit(true, found, 1)
    assert 0.75 < slope < 1.25
    assert abs(intercept) < 0.25


def test_classifier_reports_its_quality(fitted):
    """Levels one sd apart: AUC = Phi(1/sqrt 2) = .760.

    Its null standard error sqrt((n1 + n2 + 1)/(12 n1 n2)) with 450 and 900 test rows is .017; 3.29 of them, 1e-3.
    """
    quality = fitted.quality
    assert (quality.num_target, quality.num_proposals) == (450, 900)
    assert abs(quality.auc - stats.norm.cdf(1 / math.sqrt(2))) < 3.29 * math.sqrt(1351 / (12 * 450 * 900))
    assert quality.log_loss < math.log(2) - 0.05
    assert quality.brier < 0.25 - 0.02
    assert quality.calibration_error < 0.08
    assert quality.mean_ratio_proposals == pytest.approx(1, abs=0.25)
    assert quality.mean_inverse_ratio_target == pytest.approx(1, abs=0.25)
    assert fitted.target_log_ratio.shape == (450,)
    assert fitted.log_bound is None


def test_classifier_finds_nothing_where_there_is_nothing():
    """Log ratios of p = q stay near 0: their sd is |slope| sd(logit), with a standard error of sqrt(1/n1 + 1/n2).

    On 150 and 300 calibration rows that is .1; 3.29 of them, false-alarm rate 1e-3.
    """
    ratio = ClassifierRatio.fit(grey_images(120, 500, 0), grey_images(120, 1000, 1), QUICK, seed=0)
    found = ratio.log_ratio({"image": grey_images(120, 1000, 2)})
    assert found.std() < 0.329
    assert ratio.calibration.slope >= 0


def test_classifier_is_reproducible():
    config = QUICK.model_copy(update={"optimizer": QUICK.optimizer.model_copy(update={"steps": 3})})
    target, proposals = grey_images(140, 60, 0), grey_images(110, 120, 1)
    first, second, other = (ClassifierRatio.fit(target, proposals, config, seed=seed) for seed in (4, 4, 5))
    levels = {"image": grey_images(125, 50, 3)}
    assert torch.equal(first.log_ratio(levels), second.log_ratio(levels))
    assert not torch.equal(first.log_ratio(levels), other.log_ratio(levels))


def test_classifier_ratio_does_not_depend_on_the_rows_beside(fitted):
    images = grey_images(125, 1500, 5)
    together = fitted.log_ratio({"image": images})
    assert together.dtype == torch.float64
    alone = torch.cat([fitted.log_ratio({"image": images[i : i + 1]}) for i in (0, 700, 1499)])
    assert torch.allclose(together[[0, 700, 1499]], alone, atol=1e-5)


def test_classifier_refuses_rows_without_images(fitted):
    with pytest.raises(InputError, match=r"column=image: is not among the rows' \['x'\]"):
        fitted.log_ratio({"x": torch.zeros(2)})


def test_classifier_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "ratio")
    loaded = ClassifierRatio.load(tmp_path / "ratio")
    images = {"image": grey_images(125, 100, 6)}
    assert torch.equal(loaded.log_ratio(images), fitted.log_ratio(images))
    assert loaded.quality == fitted.quality
    assert loaded.target_log_ratio.tolist() == fitted.target_log_ratio.tolist()
    assert (loaded.column, loaded.calibration, loaded.max_log_ratio) == (fitted.column, fitted.calibration, None)
    assert loaded.test_index.tolist() == fitted.test_index.tolist()


def numbered_images(start, n):
    numbers = torch.arange(start, start + n)
    return torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).reshape(n, 2, 1, 1)


def test_splits_are_disjoint_shuffled_and_whole():
    config = ClassifierRatioConfig(calibration_fraction=0.25, test_fraction=0.1)
    splits = split_samples(numbered_images(0, 100), numbered_images(1000, 400), config, seed=1)
    parts = [splits.fit, splits.calibration, splits.test]
    assert [len(part.target) for part in parts] == [65, 25, 10]
    assert [len(part.proposals) for part in parts] == [260, 100, 40]
    for name, first, n in [("target", 0, 100), ("proposals", 1000, 400)]:
        images = torch.cat([getattr(part, name) for part in parts]).flatten(1).int()
        numbers = (images[:, 0] * 256 + images[:, 1]).tolist()
        assert sorted(numbers) == list(range(first, first + n))
        assert numbers != sorted(numbers)


def test_splits_follow_from_the_seed():
    target, proposals = numbered_images(0, 100), numbered_images(1000, 400)
    config = ClassifierRatioConfig()
    first, second, other = (split_samples(target, proposals, config, seed) for seed in (1, 1, 2))
    assert torch.equal(first.test.target, second.test.target)
    assert not torch.equal(first.test.target, other.test.target)


def test_too_few_or_other_target_images_are_refused():
    proposals = numbered_images(0, 60)
    split_samples(proposals[:30], proposals, ClassifierRatioConfig(), 0)
    with pytest.raises(InputError, match="target=29 images: a ratio needs 30 or more"):
        split_samples(proposals[:29], proposals, ClassifierRatioConfig(), 0)
    with pytest.raises(InputError, match=r"target=\[1, 6, 6\]: images must be like the proposals \[2, 1, 1\]"):
        split_samples(grey_images(100, 40, 0), proposals, ClassifierRatioConfig(), 0)


@pytest.mark.parametrize("scale", [1.0, 0.01, 50.0])
def test_calibration_undoes_a_scale_and_a_shift(scale):
    """Logits z with z | target ~ N(1/2, 1), z | proposal ~ N(-1/2, 1) are true log ratios; given as scale z + 3.

    Slope 1/scale, intercept -3/scale. The standard error of slope * scale is below .06 with 1,000 and 4,000 rows.
    """
    rng = np.random.default_rng(0)
    found = calibrate(scale * rng.normal(0.5, 1, 1000) + 3, scale * rng.normal(-0.5, 1, 4000) + 3)
    slope, intercept = found.slope, found.intercept
    assert slope * scale == pytest.approx(1, abs=0.2)
    assert (intercept + 3 * slope) == pytest.approx(0, abs=0.15)


def test_calibration_does_not_invert_a_ratio():
    rng = np.random.default_rng(0)
    found = calibrate(rng.normal(-1, 1, 500), rng.normal(1, 1, 500))
    assert (found.slope, found.intercept) == (0.0, 0.0)


def test_quality_by_hand():
    # Target scored D = .8 (odds 4), proposals D = .2, .2, .8, .8: r = 4 and 1/4, 1/4, 4, 4.
    # Balanced log loss: (-log .8 + (-log .8 - log .2)/2)/2; Brier: (.04 + (.04 + .64)/2)/2 = .19;
    # AUC: half of the proposals lie below, half tie = .75. Mean r over proposals 2.125, mean 1/r over target .25.
    odds = math.log(4)
    quality = evaluate_ratio(np.array([odds]), np.array([-odds, -odds, odds, odds]), "none", bins=2)
    assert quality.log_loss == pytest.approx((-math.log(0.8) + (-math.log(0.8) - math.log(0.2)) / 2) / 2)
    assert quality.brier == pytest.approx(0.19)
    assert quality.auc == pytest.approx(0.75)
    assert quality.mean_ratio_proposals == pytest.approx(2.125)
    assert quality.mean_inverse_ratio_target == pytest.approx(0.25)
    assert (quality.num_target, quality.num_proposals) == (1, 4)


def test_calibration_error_by_hand():
    # Two bins: at D = .2 no target row (error .2), at D = .8 all (error .2)
    odds = math.log(4)
    quality = evaluate_ratio(np.array([odds, odds]), np.array([-odds, -odds]), "none", bins=2)
    assert quality.calibration_error == pytest.approx(0.2)
    assert [share for _, share in quality.reliability] == [0.0, 1.0]
    assert [mean for mean, _ in quality.reliability] == pytest.approx([0.2, 0.8])


def test_a_diverging_fit_is_refused():
    config = QUICK.model_copy(
        update={"optimizer": RatioOptimizerConfig(steps=50, learning_rate=1e30, warmup_fraction=0)}
    )
    network = build_network(network_spec(config, 1), config, seed=0)
    split = Split(grey_images(140, 50, 0), grey_images(110, 50, 1))
    with pytest.raises(StatisticalRefusal, match="not finite"):
        fit_network(network, split, config.optimizer, seed=0)


def test_frozen_backbone_is_left_as_it_was():
    config = QUICK.model_copy(update={"freeze_backbone": True})
    network = build_network(network_spec(config, 1), config, seed=0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fit_network(network, Split(grey_images(140, 50, 0), grey_images(110, 50, 1)), OptimizerConfig(steps=2), seed=0)
    changed = [key for key, value in network.cpu().state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["network.13.weight", "network.13.bias"]


def test_where_the_target_has_no_density_the_ratio_is_zero_even_if_the_proposal_has_none():
    # p = U(0, 1), q = U(0, 2) at -1, .5, 1.5: 0/0, 1/(1/2), 0/(1/2); and p = U(0, 3) at 2.5: (1/3)/0
    proposal = DistributionProposal(Uniform(0.0, 2.0))
    found = DensityRatio(Uniform(0.0, 1.0), proposal).log_ratio({"x": torch.tensor([-1.0, 0.5, 1.5])})
    assert found.tolist() == pytest.approx([-math.inf, math.log(2), -math.inf])
    assert DensityRatio(Uniform(0.0, 3.0), proposal).log_ratio({"x": torch.tensor([2.5])}).tolist() == [math.inf]
    assert DensityRatio(Uniform(0.0, 1.0), proposal).log_ratio({"x": torch.tensor([math.nan])}).isnan().all()


def test_energy_by_hand():
    # U(x) = x^2 at temperature 1/2: log p = -2 x^2 up to a constant; q = U(-2, 2) has density 1/4
    proposal = DistributionProposal(Uniform(-2.0, 2.0))
    ratio = DensityRatio.of_energy(lambda x: x**2, proposal, temperature=0.5)
    assert ratio.log_ratio({"x": torch.tensor([0.0, 1.0])}).tolist() == pytest.approx([math.log(4), math.log(4) - 2])
    assert (ratio.log_bound, ratio.info.normalised) == (None, False)
    walled = DensityRatio.of_energy(lambda x: torch.where(x > 0, torch.inf, 0.0), proposal)
    assert walled.log_ratio({"x": torch.tensor([1.0, -1.0, 3.0])}).tolist() == (
        pytest.approx([-math.inf, math.log(4), -math.inf])
    )


def test_energy_of_a_module_needs_no_gradient():
    energy = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))
    plane = DistributionProposal(Independent(Normal(torch.zeros(2), torch.ones(2)), 1))
    found = DensityRatio.of_energy(energy, plane).log_ratio({"x": torch.zeros(3, 2)})
    assert found.shape == (3,)
    assert not found.requires_grad


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(InputError, match=r"temperature=.*must be positive"):
        DensityRatio.of_energy(lambda x: x, WIDE, temperature)


def test_an_infinite_temperature_is_refused():
    with pytest.raises(InputError, match="temperature"):
        DensityRatio.of_energy(lambda x: x, WIDE, math.inf)


def quick(**changes):
    optimizer = QUICK.optimizer.model_copy(update={"steps": changes.pop("steps", 3)})
    return QUICK.model_copy(update={"optimizer": optimizer, **changes})


TARGET, PROPOSALS = grey_images(140, 200, 0), grey_images(110, 400, 1)
LEVELS = {"image": grey_images(125, 50, 3)}


def test_an_ensemble_is_the_mean_of_its_members_logits():
    ratio = ClassifierRatio.fit(TARGET, PROPOSALS, quick(ensemble=3, calibration="none"), seed=4)
    logits = [network(LEVELS["image"])[:, 0].double() for network in ratio.networks]
    assert len(logits) == 3
    assert ratio.log_ratio(LEVELS).tolist() == pytest.approx(torch.stack(logits).mean(dim=0).tolist(), abs=1e-5)
    # members differ, and the first one is what would be fitted alone
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    alone = ClassifierRatio.fit(TARGET, PROPOSALS, quick(calibration="none"), seed=4)
    assert alone.log_ratio(LEVELS).tolist() == pytest.approx(logits[0].tolist(), abs=1e-5)


def test_seeds_of_an_ensembles_members():
    seeds = [member_seed(4, member) for member in range(5)]
    assert seeds[0] == 4
    assert len(set(seeds)) == 5
    assert not set(seeds[1:]) & {member_seed(5, member) for member in range(1, 5)}


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_an_ensemble_save_and_load(calibration, tmp_path):
    ratio = ClassifierRatio.fit(
        TARGET, PROPOSALS, quick(ensemble=2, calibration=calibration, max_log_ratio=0.5), seed=4
    )
    ratio.save(tmp_path)
    loaded = ClassifierRatio.load(tmp_path)
    assert len(loaded.networks) == 2
    assert torch.equal(loaded.log_ratio(LEVELS), ratio.log_ratio(LEVELS))
    assert (loaded.log_bound, loaded.max_log_ratio) == (ratio.log_bound, 0.5)
    assert loaded.calibration == ratio.calibration


@pytest.fixture(scope="module")
def recalibrated():
    """One fitted network, calibrated as asked for."""
    splits = split_samples(TARGET, PROPOSALS, QUICK, seed=4)
    network = build_network(network_spec(QUICK, 1), QUICK, seed=4)
    fit_network(network, splits.fit, quick(steps=40).optimizer, seed=4)
    return lambda **changes: ClassifierRatio.calibrated([network], network_spec(QUICK, 1), splits, quick(**changes))


def test_max_log_ratio_is_the_bound(recalibrated):
    free, cut = recalibrated(), recalibrated(max_log_ratio=0.25)
    found, whole = cut.log_ratio(LEVELS), free.log_ratio(LEVELS)
    assert (free.log_bound, cut.log_bound) == (None, 0.25)
    assert found.tolist() == whole.clamp(max=0.25).tolist()
    assert found.max() == 0.25 < whole.max()


def test_the_smaller_of_two_bounds_holds(recalibrated):
    bounds = {
        highest: recalibrated(calibration="isotonic", max_log_ratio=highest).log_bound for highest in (None, 0.25, 50.0)
    }
    assert 0.25 < bounds[None] <= math.log(61) + 1e-12  # 60 target rows calibrate: log(n + 1)
    assert bounds[0.25] == 0.25
    assert bounds[50.0] == bounds[None]


def test_what_a_cut_costs_is_seen_on_the_target_side(recalibrated):
    ratio = recalibrated(max_log_ratio=0.0)
    assert target_side_bound(ratio.target_log_ratio, ratio.log_bound)[0] > 0.05


def test_a_ratio_of_rows_of_numbers():
    """N(1, 1) over N(0, 1) in the first of two numbers: log r = x - 1/2."""
    rng = np.random.default_rng(0)
    target, proposals = (
        torch.tensor(rng.normal([mean, 0.0], 1, (1200, 2)), dtype=torch.float32) for mean in (1.0, 0.0)
    )
    config = quick(steps=120, network=RatioNetworkConfig(name="mlp", width=16, depth=1, dropout=0.0))
    ratio = ClassifierRatio.fit(target, proposals, config, seed=1, column="v")
    at = torch.stack([torch.linspace(-1, 2, 31), torch.zeros(31)], 1)
    found, true = ratio.log_ratio({"v": at}).numpy(), at[:, 0].numpy() - 0.5
    assert np.abs(found - true).max() < 0.6
    with pytest.raises(InputError, match=r"column=v: is not among the rows' \['image'\]"):
        ratio.log_ratio(LEVELS)


def test_frozen_features_are_computed_once():
    """Passes through the backbone do not grow with the number of steps."""
    calls = []

    def passes(steps):
        calls.clear()
        config = quick(steps=steps, freeze_backbone=True)
        network = build_network(network_spec(config, 1), config, seed=0)
        network.network[0].register_forward_hook(lambda *_: calls.append(1))
        fit_network(network, Split(TARGET, PROPOSALS), config.optimizer, seed=0)
        return len(calls)

    assert passes(2) == passes(20) == 2  # the target rows, and the proposals


def test_a_frozen_fit_is_that_of_the_whole_network_in_evaluation_mode():
    config = quick(steps=5, freeze_backbone=True)
    networks = [build_network(network_spec(config, 1), config, seed=0) for _ in range(2)]
    split = Split(TARGET, PROPOSALS)
    fit_network(networks[0], split, config.optimizer, seed=0)
    networks[1].frozen_backbone = False  # the long way: every step through a backbone in evaluation mode
    networks[1].train = lambda mode=True: Network.eval(networks[1]) if mode else networks[1]
    torch.nn.Module.train(networks[1], False)
    fit_network(networks[1], split, config.optimizer, seed=0)
    assert networks[1].head.weight.requires_grad
    assert torch.allclose(networks[0].head.weight, networks[1].head.weight, atol=1e-5)
    assert not torch.equal(networks[0].head.weight, build_network(network_spec(config, 1), config, seed=0).head.weight)


def test_calibrated_says_which_target_rows_it_was_evaluated_on():
    ratio = ClassifierRatio.fit(TARGET, PROPOSALS, quick(), seed=4)
    assert len(ratio.test_index) == len(ratio.target_log_ratio) == 60
    again = ratio.log_ratio({"image": TARGET[torch.from_numpy(ratio.test_index)]})
    assert again.tolist() == ratio.target_log_ratio.tolist()


def test_an_estimated_prior_is_written_with_its_interval(tmp_path):
    estimate = ClassPrior(np.array([0.3, 0.7]), np.array([0.2, 0.6]), np.array([0.4, 0.8]), "em")
    ratio = LabelShiftRatio(estimate.prior, [0.5, 0.5], estimate=estimate)
    ratio.save(tmp_path)
    written = json.loads((tmp_path / "ratio.json").read_text())
    assert written == {
        "target_prior": [0.3, 0.7],
        "proposal_prior": [0.5, 0.5],
        "estimate": {"prior": [0.3, 0.7], "low": [0.2, 0.6], "high": [0.4, 0.8], "method": "em"},
    }
    loaded = LabelShiftRatio.load(tmp_path, [0.5, 0.5])
    assert torch.equal(loaded.log_weight, ratio.log_weight)
    assert loaded.estimate.high.tolist() == [0.4, 0.8]
    assert ratio.estimate is estimate
    LabelShiftRatio([0.3, 0.7], [0.5, 0.5]).save(tmp_path)
    assert set(json.loads((tmp_path / "ratio.json").read_text())) == {"target_prior", "proposal_prior"}
