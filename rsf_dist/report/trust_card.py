"""The trust card: how far a round's accepted rows can be relied on, with one light for each thing that can go wrong.

Let r be the estimated p/q, M the constant and eps = E_p[(1 - M/r)+]:

    acceptance            (1 - eps)/M for a ratio with E_q[r] = 1
    total variation       TV(p, accepted) <= eps, from target rows with an upper confidence limit, else from proposals
    E_q[r]                1 for the true ratio; less where p has parts that q never reaches
    E_p[1/r]              at most 1 for the true ratio; less where q has parts that p never reaches. Its mean over
                          target rows exceeds c with probability at most 1/c (Markov's inequality)
    KL(p || q)            Phi^-1(AUC)^2 between two normal distributions of one covariance, with the AUC of the best
                          classifier; log M >= KL for all distributions, as KL is a mean of log r over p
    ESS fraction          E_q[r]^2/E_q[r^2] >= 1/M (Kong 1992)
    E_q[min(r, M)]        1 - eps for a true ratio that was itself cut off at M
    tail index            of a generalised Pareto distribution: below 0, r has an end point; above
                          min(0.7, 1 - 1/log10 n), estimates from n ratios are not reliable (Vehtari, Simpson, Gelman,
                          Yao & Gabry, JMLR 2024); standard error (1 + index)/sqrt(k) from the k largest (Smith,
                          Biometrika 1987)
    calibration error     sqrt(2/pi) s in each of b bins for a perfect ratio, s^2 = b D (1 - D) ((1 - D)/m + D/n) / 2,
                          m target rows and n proposals, D = P(target): the noise of the bin's counts
    two-sample tests      AUC of 1/2 within 2 null deviations (Mann & Whitney 1947; Lopez-Paz & Oquab, ICLR 2017), MMD
                          by permutations (Gretton et al., JMLR 2012)

Green means only that a check found nothing. Every check is a function of entries of report.json, where a number that is
not finite is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import ParamSpec

import numpy as np
from scipy.stats import norm

from rsf_dist.report.schema import (
    Check,
    ClassPriorEntry,
    Light,
    RatioEntry,
    RatioQualityEntry,
    TwoSampleEntry,
    TwoSampleTests,
)
from rsf_dist.sampling.diagnostics import ROUNDING, TOP
from rsf_dist.sampling.report import SamplingReport

Finding = tuple[str, Light, str]
"""The value, the light and the meaning that a check finds."""

P = ParamSpec("P")

SEVERITY: tuple[Light, ...] = ("red", "amber", "green", "grey")
"""The lights, worst first. A grey check does not apply, or only informs."""

# Thresholds. One without a source is a choice: a round number, wide enough for runs without the fault to stay green.
CAPPED_GREEN, CAPPED_AMBER = 0.01, 0.5  # of the accepted rows; beyond a half, most follow the proposals' distribution
ACCEPTANCE_GREEN, ACCEPTANCE_AMBER = 1.1, 2.0  # factor; at 2, M might as well be half or twice what it is
TV_GREEN, TV_AMBER = 0.05, 0.5  # 60 target rows of which none exceeds M have the limit 1 - 0.05^(1/60) = 0.049
WEIGHT_AMBER = 100  # the number of rows that one capped row should count for
ESS_GREEN, ESS_AMBER = 400, 100  # rows; 400 is asked of Markov chains by Vehtari et al., Bayesian Analysis 2021
ESS_WASTE = 10  # times the acceptance; above, a smaller M is worth a thought
MEAN_GREEN, MEAN_AMBER = 1.1, 2.0  # factor; as for acceptance, which is proportional to the mean ratio
MEAN_ERROR = 0.25  # above this standard error, means of 1 and of 1/2 are within two standard errors
ERRORS = 2.0  # standard errors or null deviations within which a figure agrees: false alarms of 4.6 %
INVERSE_LITTLE = 0.5  # below it, target rows plainly miss the bulk of the proposals
INVERSE_GREEN, INVERSE_AMBER = 5, 20  # exceeded by the true ratio with probability at most 1/5 and 1/20
ECE_GREEN, ECE_AMBER = 0.03, 0.1  # above chance; 5 % of perfect ratios exceed 0.03 on 60 target rows (simulated)
CHANCE_LOSS, LOSS_MARGIN = math.log(2), 0.05  # nats; what a ratio of 1 loses, and noise where 1 is the truth
AUC_GREEN, AUC_AMBER = 0.95, 0.999  # KL of 2.7 and 9.5 nats between normal distributions: M of at least 15 and 14,000
AUC_NULL_SD = 0.05  # above, an AUC of 0.6 passes for chance; with many accepted rows, this is below 34 target rows
HALF_WAY = 0.5  # of the way from the proposals to rows that cannot be told apart from the target
MMD_LEVEL = 0.05  # false alarms
SPREAD_GREEN = 10  # the most accepted class over the least
CLASS_EXPECTED = 5  # accepted rows; a class with this expectation has none with probability e^-5 = 0.7 %
LEFT_OUT = 0.1  # of an equal share: EM gives nothing to rare classes, or to one of two classes that look alike
DUPLICATES_GREEN, DUPLICATES_AMBER = 0.01, 0.1  # of the accepted rows


def trust_card(
    sampling: SamplingReport,
    ratio: RatioEntry,
    two_sample: TwoSampleTests | None,
    class_prior: ClassPriorEntry | None = None,
) -> list[Check]:
    """Return all checks of a round.

    Args:
        sampling: the figures on its accepted rows, None for each that is not finite.
        ratio: by which they were accepted.
        two_sample: the tests of target rows against proposals and accepted rows; None means not tested.
        class_prior: the treatment of the class prior; None means that the round is not the last of several.
    """
    return [
        constant(sampling, ratio),
        acceptance(sampling),
        bias(sampling, ratio),
        largest_ratio(sampling),
        tail(sampling, ratio),
        effective_sample_size(sampling),
        mean_ratio(sampling, ratio),
        mean_inverse_ratio(sampling),
        calibration(ratio),
        distance(ratio),
        two_sample_auc(two_sample),
        two_sample_mmd(two_sample),
        classes(sampling),
        estimated_class_prior(class_prior),
        duplicates(sampling),
        rows_found(sampling),
        screened_out(sampling),
    ]


def overall(lights: Iterable[str]) -> Light:
    """Return the worst of the lights. Grey ones count only where there are no others."""
    shown = set(lights)
    return next((light for light in SEVERITY if light in shown), "grey")


def format_trust_card(trust: Sequence[Check]) -> str:
    """Return the card as a line: how many lights there are of each colour, and which checks have the worst."""
    count = Counter(check.light for check in trust)
    worst = overall(count)
    text = ", ".join(f"{count[light]} {light}" for light in ("green", "amber", "red") if count[light])
    if worst not in ("red", "amber"):
        return f"trust: {text or 'no check applies'}"
    names = [check.name for check in trust if check.light == worst]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"trust: {text} ({worst}: {', '.join(names[:3])}{more})"


def _check(name: str, rule: str) -> Callable[[Callable[P, Finding]], Callable[P, Check]]:
    """Make a function that returns a finding return a Check with this name and rule."""

    def decorate(find: Callable[P, Finding]) -> Callable[P, Check]:
        @wraps(find)
        def check(*args: P.args, **kwargs: P.kwargs) -> Check:
            return Check(name, *find(*args, **kwargs), rule)

        return check

    return decorate


@_check(
    "constant M",
    "Red where a ratio was not finite. Else by the share of the accepted rows with r > M: "
    f"green up to {100 * CAPPED_GREEN:g} %, amber up to {100 * CAPPED_AMBER:g} %.",
)
def constant(sampling: SamplingReport, ratio: RatioEntry) -> Finding:
    """Report the origin of M and the number of rows that it caps."""
    scored, capped = sampling.num_scored, sampling.num_capped
    value = f"log M {sampling.log_m:.3f}, {sampling.log_m_source}; {capped:,} of {scored:,} proposals capped"
    if sampling.num_nonfinite:
        value += f", {sampling.num_nonfinite:,} ratios not finite"
        return value, "red", "A ratio that is NaN or infinite means nothing: fix the ratio."
    if capped:
        share = min(1.0, capped / scored / max(sampling.acceptance_rate, 1e-300))  # capped rows are accepted
        meaning = f"{_percent(share)} of the accepted rows were capped: among themselves they follow the proposals."
        return value, _up_to(share, CAPPED_GREEN, CAPPED_AMBER), f"{meaning} {_ROW_WEIGHTS}"
    if not _certified(sampling, ratio):
        limit = _percent(-math.log(0.05) / scored)
        return value, "green", f"No proposal exceeded M, so at most about {limit} would (95 %): no proof."
    if _cut_off(ratio):
        return value, "green", f"The ratio itself was cut off at M. {_cost_of_cut(sampling, ratio)}"
    return value, "green", "M is a bound of the ratio: rejection is exact, as far as the ratio is."


_ROW_WEIGHTS = "Only with training.use_row_weights does their weight make up for it."


def _cost_of_cut(sampling: SamplingReport, ratio: RatioEntry) -> str:
    if _isotonic(ratio):
        return "The cost is not all seen: the calibration cuts off the target rows' ratios as well."
    if sampling.tv_bound_source == "target":
        return "The cost is eps from target rows."
    return "The cost is not known without target rows."


@_check(
    "acceptance",
    "Green where the 95 % interval meets (1 − eps)/M, eps within its limits, or the rate is within a factor of "
    f"{ACCEPTANCE_GREEN:g} of it; amber up to a factor of {ACCEPTANCE_AMBER:g}.",
)
def acceptance(sampling: SamplingReport) -> Finding:
    """Compare the acceptance rate with (1 - eps)/M."""
    rate, predicted = sampling.acceptance_rate, sampling.acceptance_predicted
    low, high = sampling.acceptance_interval
    value = f"{_percent(rate)} (95 % interval {_percent(low)} to {_percent(high)})"
    if predicted is None:
        return value, "grey", "There is no prediction: M was raised afterwards."
    value += f", predicted {_percent(predicted)}"
    bound, lower, upper = sampling.tv_bound, sampling.tv_bound_lower, sampling.tv_bound_upper
    least, most = (_predicted_at(limit, predicted, bound) for limit in (upper, lower))
    off = 1.0 if low <= most and least <= high else _factor(rate, predicted)
    light = _up_to(off, ACCEPTANCE_GREEN, ACCEPTANCE_AMBER)
    if light == "green":
        return value, light, "Rows are accepted as often as the ratio, M and eps imply."
    cause = "the mean ratio is not 1 as it should be, or the estimate of eps is wrong"
    if not sampling.normalised:
        cause = "the estimate of eps is wrong"
    times = f"{rate / predicted:.3g} times as often as predicted" if predicted > 0 else "although none should be"
    return value, light, f"Rows are accepted {times}: {cause}."


def _predicted_at(limit: float | None, predicted: float, bound: float | None) -> float:
    """Return the predicted acceptance with eps at a confidence limit, since eps may rest on few target rows."""
    if limit is None or bound is None or bound >= 1:
        return predicted
    return predicted * (1 - limit) / (1 - bound)


@_check(
    "bias of capping",
    f"By the bound eps on the total variation distance, its 95 % limit where target rows give one: green up to "
    f"{TV_GREEN:g}, amber up to {TV_AMBER:g}. From proposals alone at best amber, unless M is certified by a "
    "ratio that was not cut off.",
)
def bias(sampling: SamplingReport, ratio: RatioEntry) -> Finding:
    """Report the bound on the bias of capping, from target rows where there are any."""
    bound, upper, proposals = sampling.tv_bound, sampling.tv_bound_upper, sampling.tv_bound_proposals
    if bound is None:
        return "not finite", "red", "Some ratios are not usable, so no bound could be computed."
    from_target, certified, cut = sampling.tv_bound_source == "target", _certified(sampling, ratio), _cut_off(ratio)
    value = f"eps {bound:.3f} from proposals"
    if from_target:
        shown_limit = "" if upper is None else f" (95 % limit {upper:.3f})"
        value = f"eps {bound:.3f}{shown_limit} from target rows, {_figure(proposals)} from proposals"
    if certified and bound <= ROUNDING and not cut:
        return value, "green", "No ratio can exceed M: capping causes no bias."
    limit = bound if upper is None else upper
    light = _up_to(limit, TV_GREEN, TV_AMBER)
    cause = "cutting the ratio off at M" if certified and cut else "capping"
    meaning = f"At most {_percent(limit)} of the accepted rows are misplaced by {cause}, as far as the ratio is right."
    if certified and cut and _isotonic(ratio):
        meaning += f" {_cost_of_cut(sampling, ratio)}"
    if not from_target:
        light = "amber" if light == "green" else light
        meaning += " Parts of the target that no proposal met are not seen: give target rows to evaluate them."
    elif ratio.target_at_most:
        meaning += " Target images are unlabelled, so each is counted as the class for which capping costs most: this "
        meaning += "bound is conservative."
    elif proposals is not None and bound > 2 * proposals + TV_GREEN:
        meaning += " Proposals alone show less bias: they hardly meet part of the target."
    return value, light, meaning


@_check(
    "largest ratio",
    f"Green where no ratio exceeds M; amber where the largest is up to {WEIGHT_AMBER:g} M, so that a capped row should "
    f"count for up to {WEIGHT_AMBER:g}.",
)
def largest_ratio(sampling: SamplingReport) -> Finding:
    """Compare the largest log ratio and a high quantile with log M."""
    top, quantile, log_m = sampling.max_log_ratio, sampling.log_ratio_quantile, sampling.log_m
    if top is None:
        return "–", "grey", "No proposal had a ratio above 0."
    value = f"log r up to log M {top - log_m:+.2f}"
    if quantile is not None:
        value += f", for 99.9 % of the proposals up to log M {quantile - log_m:+.2f}"
    if top <= log_m + ROUNDING:
        return value, "green", "M is above every ratio that was met."
    weight = math.exp(min(top - log_m, 700.0))
    meaning = f"The largest ratio is {_count(weight)} M: its row should count for {_count(weight)}, "
    meaning += "and counts for one unless training.use_row_weights is set."
    return value, _up_to(weight, 1.0, WEIGHT_AMBER), meaning


@_check(
    "tail of the ratio",
    f"By the generalised Pareto index of the largest ratios: green where it is below 0, an end point, by {ERRORS:g} "
    "standard errors; amber up to min(0.7, 1 − 1/log10 n); red above. With a certified M, green and amber in place of "
    "amber and red.",
)
def tail(sampling: SamplingReport, ratio: RatioEntry) -> Finding:
    """Compare the tail index with its threshold."""
    index, threshold = sampling.tail_index, sampling.tail_threshold
    if index is None:
        return "–", "grey", "There are too few different large ratios to fit a tail to."
    error, certified = _tail_error(sampling, index), _certified(sampling, ratio)
    value = f"index {index:.2f} ± {error:.2f} (standard error), threshold {threshold:.2f}"
    if index + ERRORS * error < 0:
        return value, "green", "The largest ratios approach an end point, so some M is exact."
    if index <= threshold:
        return (value, "green", "M is certified.") if certified else (value, "amber", "No M can be called exact.")
    meaning = "Means over the proposals' ratios, the effective sample size among them, cannot be relied on."
    return value, "amber" if certified else "red", meaning


def _tail_error(sampling: SamplingReport, index: float) -> float:
    """Return the tail index's standard error, from the number of ratios that `Statistics.tail_index` fits."""
    n = sampling.num_scored
    if sampling.num_screened_out:  # the index is the pilot's, from as many rows as the threshold is for, or more
        n = min(n, round(10 ** (1 / (1 - sampling.tail_threshold))))
    return max(0.0, 1 + index) / math.sqrt(min(TOP, max(25, n // 10)))


@_check("effective sample size", f"Green from {ESS_GREEN} rows, amber from {ESS_AMBER}.")
def effective_sample_size(sampling: SamplingReport) -> Finding:
    """Report the number of target rows that the scored proposals are worth."""
    fraction, rate, scored = sampling.ess_fraction, sampling.acceptance_rate, sampling.num_scored
    rows = fraction * scored
    meaning = f"About the target, {scored:,} proposals tell as much as {_count(rows)} rows of the target."
    if fraction > ESS_WASTE * rate > 0:
        meaning += f" That is {fraction / rate:,.0f} times what was accepted: a smaller M would waste less."
    return f"{_percent(fraction)} of the proposals: {_count(rows)} rows", _from(rows, ESS_GREEN, ESS_AMBER), meaning


@_check(
    "mean ratio",
    f"Over proposals it should be 1: green within {ERRORS:g} standard errors or a factor of {MEAN_GREEN:g}, amber up "
    f"to a factor of {MEAN_AMBER:g}; amber at best where the standard error exceeds {MEAN_ERROR:g}.",
)
def mean_ratio(sampling: SamplingReport, ratio: RatioEntry) -> Finding:
    """Compare E_q[r] with 1."""
    mean, error = sampling.mean_ratio, sampling.mean_ratio_error
    if not sampling.normalised:
        return "–", "grey", "The ratio has a constant factor, so no mean is expected."
    if mean is None or error is None:
        return "not finite", "red", "The mean overflows: the ratio is not usable."
    value = f"{mean:.3g} ± {error:.2g} (standard error)"
    agrees = abs(mean - 1) <= ERRORS * error
    light = "green" if agrees else _up_to(_factor(mean, 1.0), MEAN_GREEN, MEAN_AMBER)
    if light == "green" and error > MEAN_ERROR:
        return value, "amber", "Too uncertain to tell a right ratio from one that is wrong by a factor of two."
    if light == "green":
        return value, light, "The ratio is as large as it should be, on average over the proposals."
    if mean > 1:
        return value, light, "The ratio is too large on average: too many proposals are taken for the target."
    if _certified(sampling, ratio) and _cut_off(ratio):
        meaning = "The ratio was cut off at M, which makes it too small on average."
        return value, light, f"{meaning} {_cost_of_cut(sampling, ratio)}"
    return value, light, "The ratio is too small on average, or the target has parts that proposals never reach."


@_check(
    "mean inverse ratio",
    "Over target rows it should not exceed 1; the true ratio's sample mean exceeds c with probability at most 1/c: "
    f"green up to {INVERSE_GREEN:g}, amber up to {INVERSE_AMBER:g}. No light below {INVERSE_LITTLE:g}.",
)
def mean_inverse_ratio(sampling: SamplingReport) -> Finding:
    """Compare E_p[1/r] with its bound, which is 1 for the true ratio."""
    mean = sampling.mean_inverse_ratio
    if not sampling.normalised:
        return "–", "grey", "The ratio has a constant factor, so no mean is expected."
    if sampling.tv_bound_source != "target":
        return "–", "grey", "There are no target rows to compute it from."
    if mean is None:
        return "not finite", "red", "A target row has ratio 0: rows like it are never accepted."
    value, light = f"{mean:.3g}", _up_to(mean, INVERSE_GREEN, INVERSE_AMBER)
    if mean < INVERSE_LITTLE:
        meaning = "Tells little: target rows miss the bulk of the proposals, as is usual for distant proposals."
        return value, "grey", meaning
    if light == "green":
        return value, light, "Nothing was found: the true ratio may well have as large a mean over these rows."
    return value, light, "Some target rows are taken for far too unlikely: rows like them are missed."


@_check(
    "calibration",
    "By the expected calibration error on held-out rows, less that of a perfect ratio on as many: green up to "
    f"{ECE_GREEN:g}, amber up to {ECE_AMBER:g}; red too where the log loss exceeds chance by {LOSS_MARGIN:g}.",
)
def calibration(ratio: RatioEntry) -> Finding:
    """Evaluate the probabilities of a learned ratio on held-out rows."""
    quality = ratio.quality
    if quality is None:
        return "–", "grey", f"{ratio.kind} has no figures on held-out target rows."
    error, brier, loss = quality.calibration_error, quality.brier, quality.log_loss
    if error is None or brier is None or loss is None:
        return "not finite", "red", "The ratio is not usable: its figures on held-out rows are not finite."
    chance = chance_calibration_error(quality)
    value = f"error {error:.3f} (a perfect ratio's {chance:.3f}), Brier {brier:.3f}, log loss {loss:.3f}"
    if loss > CHANCE_LOSS + LOSS_MARGIN:
        return value, "red", "On held-out rows the ratio is worse than the constant 1."
    light = _up_to(error - chance, ECE_GREEN, ECE_AMBER)
    if light == "green":
        return value, light, f"Held-out rows, {quality.num_target:,} of the target, confirm the ratio."
    return value, light, "The ratio has the wrong size on held-out rows, even if it orders them rightly."


def chance_calibration_error(quality: RatioQualityEntry) -> float:
    """Return the calibration error to expect of a perfect ratio, from the noise in bins of equal mass."""
    predicted = np.array([mean for mean, _ in quality.reliability])
    noise = (1 - predicted) / quality.num_target + predicted / quality.num_proposals
    return float(np.sqrt(2 / np.pi * len(predicted) * predicted * (1 - predicted) * noise / 2).mean())


@_check(
    "distance of proposals",
    f"By the learned ratio's AUC on held-out rows: green up to {AUC_GREEN:g}, amber up to {AUC_AMBER:g}. Towards 1, M "
    "grows and the size of the ratio can no longer be learned.",
)
def distance(ratio: RatioEntry) -> Finding:
    """Report the distance from the proposals to the target, by the AUC of the ratio."""
    quality = ratio.quality
    if quality is None:
        return "–", "grey", f"{ratio.kind} has no figures on held-out target rows."
    auc = quality.auc
    value = f"AUC {auc:.3f} on {quality.num_target:,} target rows and {quality.num_proposals:,} proposals"
    if auc >= 1:
        return value, "red", "Nothing of the target looks like a proposal: bring the proposals closer."
    light, kl = _up_to(auc, AUC_GREEN, AUC_AMBER), float(norm.ppf(max(auc, 0.5))) ** 2
    needed = f"between normal distributions this AUC means a KL divergence of {kl:.1f} nats, "
    needed += f"so M above {_count(math.exp(kl))}"
    return value, light, f"The proposals are {'close to' if light == 'green' else 'far from'} the target: {needed}."


@_check(
    "two-sample AUC",
    f"Green where a classifier tells accepted from target rows with an AUC within {ERRORS:g} null deviations of 0.5; "
    f"amber where {100 * HALF_WAY:g} % or more of the distance of proposals as configured is gone; red else. "
    f"Amber at best where the null deviation exceeds {AUC_NULL_SD:g}.",
)
def two_sample_auc(two_sample: TwoSampleTests | None) -> Finding:
    """Compare the AUC of proposals and of accepted rows, each against target rows."""
    if two_sample is None:
        return "–", "grey", _NO_TWO_SAMPLE
    before, moved, after = two_sample.before, two_sample.moved, two_sample.after
    low, high = after.auc_interval
    of_moved = "" if moved is None else f", moved {moved.auc:.3f}"
    value = f"proposals {before.auc:.3f}{of_moved}, accepted {after.auc:.3f} (95 % interval {low:.3f} to {high:.3f})"
    distance_before, distance_after = abs(before.auc - 0.5), abs(after.auc - 0.5)
    if distance_after > ERRORS * after.auc_null_sd:
        distance_moved = None if moved is None else abs(moved.auc - 0.5)
        return value, *_way_gone(distance_before, distance_after, after.features, distance_moved)
    if after.auc_null_sd > AUC_NULL_SD:
        chance = f"{0.5 + ERRORS * after.auc_null_sd:.2f}"
        return value, "amber", f"The rows are too few to tell: an AUC of {chance} would pass for chance."
    return value, "green", _not_told_apart(after, distance_before <= ERRORS * before.auc_null_sd)


@_check(
    "two-sample MMD",
    f"Green where a permutation test of accepted against target rows gives p of {MMD_LEVEL:g} or more; amber where "
    f"{100 * HALF_WAY:g} % or more of the MMD² of proposals as configured is gone; red else.",
)
def two_sample_mmd(two_sample: TwoSampleTests | None) -> Finding:
    """Compare the MMD of proposals and of accepted rows, each against target rows."""
    if two_sample is None:
        return "–", "grey", _NO_TWO_SAMPLE
    before, moved, after = two_sample.before, two_sample.moved, two_sample.after
    of_moved = "" if moved is None else f", moved {moved.mmd2:.2g}"
    value = f"proposals {before.mmd2:.2g}{of_moved}, accepted {after.mmd2:.2g} (p = {after.mmd_pvalue:.2g})"
    if after.mmd_pvalue < MMD_LEVEL:
        return value, *_way_gone(before.mmd2, after.mmd2, after.features, None if moved is None else moved.mmd2)
    return value, "green", _not_told_apart(after, before.mmd_pvalue >= MMD_LEVEL)


_NO_TWO_SAMPLE = "Not tested: there are no target rows that the ratio was not fitted to."


def _not_told_apart(after: TwoSampleEntry, at_once: bool) -> str:
    rows = f"{after.num_first:,} and {after.num_second:,} rows"
    text = f"By {after.features}, accepted and target rows cannot be told apart ({rows})"
    return f"{text}; nor could the proposals, so that there was nothing to gain." if at_once else f"{text}."


def _way_gone(had: float, left: float, features: str, moved: float | None) -> tuple[Light, str]:
    """Return the light and the meaning of a distance to the target that rejection was to remove.

    Args:
        had: the distance of the proposals as configured.
        left: the distance of the accepted rows.
        features: by which rows are described.
        moved: the distance of the last round's proposals; None without rounds.
    """
    if left >= had:
        return "red", f"By {features}, the accepted rows are no closer to the target than the proposals."
    gone = 1 - left / had
    text = f"By {features}, accepted rows went {_percent(round(gone, 2))} of the way from the proposals to the target."
    if moved is not None and left >= moved:
        text += " The last round's proposals had gone as far without its ratio."
    return _from(gone, 1.0, HALF_WAY), text


@_check(
    "classes",
    f"Green where the most accepted class is accepted up to {SPREAD_GREEN:g} times as often as the least, amber above; "
    f"red where one is never accepted. Only classes with {CLASS_EXPECTED} or more accepted rows to be expected.",
)
def classes(sampling: SamplingReport) -> Finding:
    """Compare the acceptance rates of the classes."""
    rates, scored = sampling.acceptance_by_label, sampling.scored_by_label
    if len(rates) < 2:
        return "–", "grey", "All rows are of one class." if rates else "The rows have no labels."
    compared = [label for label in rates if scored[label] * sampling.acceptance_rate >= CLASS_EXPECTED]
    if len(compared) < 2:
        return "–", "grey", "Too few rows were proposed to compare classes."
    least, most = min(compared, key=rates.__getitem__), max(compared, key=rates.__getitem__)
    value = f"accepted {_percent(rates[least])} (class {least}) to {_percent(rates[most])} (class {most})"
    if len(compared) < len(rates):
        value += f"; {len(rates) - len(compared)} with too few rows to tell"
    never = ", ".join(str(label) for label in compared if rates[label] == 0)
    if never:
        return value, "red", f"Never accepted: class {never}. Right only if the target has none of it."
    spread = rates[most] / rates[least]
    if spread > SPREAD_GREEN:
        meaning = f"A factor of {spread:.3g}: right only if the target's class prior is that unusual."
        return value, "amber", meaning
    return value, "green", f"A factor of {spread:.3g}: each of these classes is among the accepted rows."


@_check(
    "class prior",
    f"Green where rounds follow an estimate that leaves every class {100 * LEFT_OUT:g} % or more of an equal share; "
    "amber where it leaves a class less, and where an estimate was to be followed and was not.",
)
def estimated_class_prior(entry: ClassPriorEntry | None) -> Finding:
    """Report the treatment of the target's class prior, which rounds estimate separately."""
    if entry is None or (entry.reason_kept and not entry.wanted):
        return "–", "grey", "Not estimated by rounds."
    if entry.reason_kept or entry.estimate is None:
        meaning = f"An estimate was to be followed and is not: {entry.reason_kept}. "
        meaning += "The class frequencies of the accepted rows follow the ratio."
        return "as configured", "amber", meaning
    estimate = entry.estimate
    value = f"{estimate.effective_classes:.1f} effective classes of {len(estimate.prior)}, by {estimate.method}"
    rare = [str(label) for label, share in enumerate(estimate.prior) if share < LEFT_OUT / len(estimate.prior)]
    if rare:
        meaning = f"Next to nothing of class {', '.join(rare)}: right only if the target has none. "
        meaning += "Smoothing alone keeps it."
        return value, "amber", meaning
    return value, "green", "Every class has a share in the estimate."


@_check(
    "duplicates",
    f"By their share of the rows: green up to {100 * DUPLICATES_GREEN:g} %, amber up to {100 * DUPLICATES_AMBER:g} %.",
)
def duplicates(sampling: SamplingReport) -> Finding:
    """Count accepted rows that equal an earlier row to the last bit."""
    copies, rows = sampling.num_duplicates, sampling.num_accepted
    light = _up_to(copies / max(rows, 1), DUPLICATES_GREEN, DUPLICATES_AMBER)
    meaning = "Nearly all accepted rows differ." if copies else "No accepted row equals another."
    if light != "green":
        meaning = f"Only {rows - copies:,} rows differ; the others are repetitions."
    return f"{copies:,} of {rows:,} accepted rows", light, meaning


@_check("rows found", "Amber where the budget or the pool ended before as many rows were accepted as were asked for.")
def rows_found(sampling: SamplingReport) -> Finding:
    """Compare the number of accepted rows with the number that was asked for."""
    accepted, short = sampling.num_accepted, sampling.shortfall
    if short:
        meaning = "The budget or the pool ended before all rows were accepted. The accepted rows are as trustworthy as "
        meaning += "others; raise sampling.budget, or add to the pool, for more."
        return f"{accepted:,} of {accepted + short:,}", "amber", meaning
    return f"{accepted:,}", "green", "As many as were asked for."


@_check("screened out", "For information.")
def screened_out(sampling: SamplingReport) -> Finding:
    """Count proposals that were given up before their ratio was complete."""
    count = sampling.num_screened_out
    value = f"{count:,} of {sampling.num_scored:,} proposals"
    if count:
        meaning = "This saves work and changes no row. Sums over the proposals are estimated from the others."
        return value, "grey", meaning
    return value, "grey", "Every ratio was computed in full."


def _certified(sampling: SamplingReport, ratio: RatioEntry) -> bool:
    """Return True if the ratio's bound certifies M, and no ratio exceeded M."""
    bound = ratio.log_bound
    return bound is not None and sampling.log_m >= bound - ROUNDING and not sampling.num_capped


def _cut_off(ratio: RatioEntry) -> bool:
    """Return True if the bound is a cut-off of a learned ratio, and not a property of the true ratio."""
    return ratio.log_bound is not None and ratio.quality is not None and not ratio.bounded_by_construction


def _isotonic(ratio: RatioEntry) -> bool:
    return ratio.quality is not None and ratio.quality.calibration.startswith("isotonic")


def _up_to(value: float, green: float, amber: float) -> Light:
    return "green" if value <= green else "amber" if value <= amber else "red"


def _from(value: float, green: float, amber: float) -> Light:
    return "green" if value >= green else "amber" if value >= amber else "red"


def _factor(value: float, expected: float) -> float:
    """Return the larger of two numbers divided by the smaller."""
    low, high = sorted((value, expected))
    return high / low if low > 0 else math.inf


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _count(value: float) -> str:
    return f"{value:.3g}" if value < 10 else f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"
