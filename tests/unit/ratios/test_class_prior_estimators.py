"""Class priors estimated from unlabelled outputs, on three Gaussian classes whose posteriors are known."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, softmax

from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.ratios.class_prior import BiasCorrectedTemperature, bbse, em

MEANS = np.array([-2.0, 0.0, 2.0])
TARGET = np.array([0.7, 0.2, 0.1])
SEEDS = 30


def draw(prior, n, seed):
    """Labels [n], and exact log posteriors [n, 3] under the uniform source prior."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(3, n, p=prior)
    x = generator.normal(MEANS[labels], 1.0)
    return labels, log_softmax(stats.norm.logpdf(x[:, None], MEANS), axis=1)


def by_em(source, labels, target, **options):
    """Call `em` with the arguments of `bbse`."""
    return em(source, target, **options)


def samples(seed, n=1000):
    labels, source = draw([1 / 3] * 3, n, [seed, 0])
    return labels, source, draw(TARGET, n, [seed, 1])[1]


def overconfident(log_posterior):
    return 3 * log_posterior + np.array([-3.0, 0.0, 0.0])


@pytest.mark.parametrize("estimate", [bbse, by_em])
def test_estimates_are_centred_on_the_truth(estimate):
    """Mean over 30 seeds, a z-test for each of two free classes at 1e-3 (Bonferroni: 2e-3)."""
    found = []
    for seed in range(SEEDS):
        labels, source, target = samples(seed)
        found.append(estimate(np.exp(source), labels, np.exp(target), resamples=1).prior)
    found = np.array(found)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert stats.ttest_1samp(found[:, :2], TARGET[:2]).pvalue.min() > 1e-3


def covered(estimate, transform):
    inside = 0
    for seed in range(SEEDS):
        labels, source, target = samples(seed, n=400)
        found = estimate(transform(source), labels, transform(target), resamples=50, seed=seed)
        inside += found.low[0] <= TARGET[0] <= found.high[0]
    return inside


@pytest.mark.parametrize("estimate", [bbse, by_em])
def test_intervals_cover_the_truth(estimate):
    """95 % intervals of 50 resamples cover in 24 or more of 30 seeds: P(Binomial(30, .93) < 24) = 8e-4."""
    assert covered(estimate, np.exp) >= 24


def test_em_needs_calibrated_outputs():
    """Negative control: on outputs that are off, EM's intervals miss. BBSE needs no calibration, and covers."""

    def outputs(log_posterior):
        return softmax(overconfident(log_posterior), axis=1)

    assert covered(by_em, outputs) == 0
    assert covered(bbse, outputs) >= 24


def test_calibration_undoes_temperature_and_bias():
    """softmax(3 l + b) is undone by T = 3 and the bias (1, 0, 0), less its mean.

    Over 20 seeds the sd was .033 and .017: five of each are allowed.
    """
    labels, source = draw([1 / 3] * 3, 20_000, 0)
    found = BiasCorrectedTemperature.fit(overconfident(source), labels)
    assert found.temperature == pytest.approx(3, abs=0.17)
    assert found.bias == pytest.approx([2 / 3, -1 / 3, -1 / 3], abs=0.09)
    assert found(overconfident(source)) == pytest.approx(np.exp(source), abs=0.05)


def test_em_after_calibration_is_as_good_as_with_exact_posteriors():
    """Mean squared errors over 30 seeds, each seed's calibration fitted on its own source rows."""
    raw, calibrated, exact = [], [], []
    for seed in range(SEEDS):
        labels, source, target = samples(seed)
        calibration = BiasCorrectedTemperature.fit(overconfident(source), labels)
        for errors, outputs in (
            (raw, lambda logits: softmax(overconfident(logits), axis=1)),
            (calibrated, lambda logits, undo=calibration: undo(overconfident(logits))),
            (exact, np.exp),
        ):
            found = em(outputs(source), outputs(target), resamples=1).prior
            errors.append(((found - TARGET) ** 2).mean())
    assert np.mean(calibrated) < 2 * np.mean(exact)
    assert np.mean(raw) > 10 * np.mean(calibrated)


def test_without_a_shift_the_prior_is_the_sources():
    labels, source, _ = samples(0)
    outputs = np.exp(source)
    assert bbse(outputs, labels, outputs, resamples=1).prior == pytest.approx(np.bincount(labels) / len(labels))
    assert em(outputs, outputs, resamples=1).prior == pytest.approx(outputs.mean(axis=0))


def test_hard_predictions_that_are_perfect_count_the_classes():
    labels, truth = np.array([0, 0, 1, 2]), np.array([2, 2, 2, 0, 1])
    for name, estimate in (("bbse", bbse), ("em", by_em)):
        found = estimate(np.eye(3)[labels], labels, np.eye(3)[truth], resamples=20)
        assert found.prior == pytest.approx([0.2, 0.2, 0.6])
        assert (found.low <= found.prior).all()
        assert (found.prior <= found.high).all()
        assert found.method == name


def test_a_class_without_evidence_gets_nothing():
    labels = np.array([0, 1])
    for estimate in (bbse, by_em):
        assert estimate(np.eye(2), labels, np.array([[1.0, 0.0]] * 3), resamples=1).prior == pytest.approx([1, 0])


@pytest.mark.parametrize("estimate", [bbse, by_em])
def test_a_classifier_that_knows_nothing_is_refused(estimate):
    labels = np.arange(30) % 3
    with pytest.raises(StatisticalRefusal, match="do not tell the classes apart"):
        estimate(np.full((30, 3), 1 / 3), labels, np.full((10, 3), 1 / 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples=0: must be positive"),
        ({"confidence": 1.0}, r"confidence=1\.0: must be in \(0, 1\)"),
    ],
)
def test_a_bootstrap_that_is_none_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        em(np.eye(2), np.eye(2), **options)


@pytest.mark.parametrize("logits", [np.array([[np.nan, 1.0]]), np.array([0.5])])
def test_calibration_refuses_logits_that_are_none(logits):
    with pytest.raises(InputError, match=r"logits=shape .*must be finite, \[n, classes\]"):
        BiasCorrectedTemperature.fit(logits, np.array([0]))


@pytest.mark.parametrize(
    ("source", "labels", "target", "message"),
    [
        (np.eye(2), [0, 1, 1], np.eye(2), r"labels=int64 \[3\]: must be integers \[2\]"),
        (np.eye(2), [0.0, 1.0], np.eye(2), r"labels=float64 \[2\]: must be integers"),
        (np.eye(2), [0, 2], np.eye(2), "must lie in 0 to 1"),
        (np.eye(2), [0, 0], np.eye(2), "labels=class 1: has no source row"),
        (2 * np.eye(2), [0, 1], np.eye(2), "source=.*must be probabilities of sum 1"),
        (np.eye(2), [0, 1], np.array([[np.nan, 1.0]]), "target=.*must be probabilities of sum 1"),
        (np.eye(2), [0, 1], np.empty((0, 2)), r"target=\[0, 2\]: must be \[n, classes\]"),
        (np.eye(2), [0, 1], np.eye(3), "target=3 classes: source has 2"),
    ],
)
def test_outputs_that_are_refused(source, labels, target, message):
    with pytest.raises(InputError, match=message):
        bbse(source, np.array(labels), target)


def test_em_refuses_a_class_that_outputs_never_name():
    with pytest.raises(InputError, match="source=class 1: is never given any probability"):
        em(np.array([[1.0, 0.0]]), np.eye(2))
