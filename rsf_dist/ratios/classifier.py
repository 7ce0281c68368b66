"""The ratio learned by telling target images from proposals.

For D(x) = P(target | x) under balanced classes, log p(x)/q(x) = logit D(x) at the Bayes optimum (Bickel, Brückner &
Scheffer, JMLR 2009; Sugiyama, Suzuki & Kanamori 2012). A network is fitted on balanced minibatches of one part of the
target images and of the proposals; its logit is calibrated by logistic regression (Platt 1999), with both classes
weighted to the same prior, on a second part; every figure reported comes from a third. Degenerate case: p = q gives
slope 0, hence log ratio ~ 0 and acceptance at random.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torch import Tensor, nn

from rsf_dist.accept import Floats
from rsf_dist.batch import Batch
from rsf_dist.config import ClassifierRatioConfig, OptimizerConfig
from rsf_dist.errors import InputError
from rsf_dist.models import ImageNetwork, NetworkSpec, device, load_network, save_network
from rsf_dist.optimization import descend
from rsf_dist.rng import Stage, Streams

_SCORE_BATCH = 1024
MIN_TARGET_IMAGES = 30


@dataclass(frozen=True)
class Split:
    """Target images and proposals of one part, uint8 [n, c, h, w] each."""

    target: Tensor
    proposals: Tensor


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts: to fit, to calibrate, to report on."""

    fit: Split
    calibration: Split
    test: Split


@dataclass(frozen=True)
class RatioQuality:
    """How good a calibrated ratio is, on rows that neither fitting nor calibration saw.

    Args:
        num_target, num_proposals: size of the test part.
        log_loss: balanced over both classes, in nats; log 2 = 0.693 is chance.
        brier: balanced mean squared error of D; chance is 0.25.
        calibration_error: expected calibration error, ten bins of equal mass, balanced weights.
        auc: area under the ROC curve.
        slope, intercept: of the calibration; a slope of 1 means that the network needed none.
        mean_ratio_proposals: mean of r over proposals; 1 for the true ratio.
        mean_inverse_ratio_target: mean of 1/r over the target; 1 for the true ratio where p covers q, else below.
        reliability: ten pairs (mean predicted D, balanced share of target rows), the bins of calibration_error.
    """

    num_target: int
    num_proposals: int
    log_loss: float
    brier: float
    calibration_error: float
    auc: float
    slope: float
    intercept: float
    mean_ratio_proposals: float
    mean_inverse_ratio_target: float
    reliability: tuple[tuple[float, float], ...]


class ClassifierRatio:
    """log r(x) = slope * logit(x) + intercept.

    Args:
        network, spec: images -> [n, 1] logits, and what builds it.
        slope, intercept: the calibration.
        quality: its figures on the test part.
        target_log_ratio: log r of the test part's target images, float64 [n]: what the p-side TV bound is taken from.
        column: the images' column.
    """

    log_bound = None

    def __init__(
        self,
        network: ImageNetwork,
        spec: NetworkSpec,
        slope: float,
        intercept: float,
        quality: RatioQuality,
        target_log_ratio: Floats,
        column: str = "image",
    ):
        self.network = network.eval()
        self.spec = spec
        self.slope, self.intercept = slope, intercept
        self.quality = quality
        self.target_log_ratio = target_log_ratio
        self.column = column

    @classmethod
    def fit(
        cls, target: Tensor, proposals: Tensor, config: ClassifierRatioConfig | None = None, seed: int = 0
    ) -> ClassifierRatio:
        """Fit and calibrate in this process. target, proposals: uint8 [n, c, h, w]. Raises InputError."""
        config = config or ClassifierRatioConfig()
        splits = split_evidence(target, proposals, config, seed)
        spec = network_spec(config, channels=target.shape[1])
        network = build_network(spec, config, seed)
        fit_network(network, splits.fit, config.optimizer, seed)
        return cls.calibrated(network, spec, splits)

    @classmethod
    def calibrated(cls, network: ImageNetwork, spec: NetworkSpec, splits: Splits) -> ClassifierRatio:
        """Calibrate a fitted network on `splits.calibration` and judge it on `splits.test`."""
        network = network.to(device()).eval()
        on_target, on_proposals = (_logits(network, part) for part in _parts(splits.calibration))
        slope, intercept = calibrate(on_target, on_proposals)

        def score(images: Tensor) -> Floats:
            return slope * _logits(network, images) + intercept

        target, proposals = (score(part) for part in _parts(splits.test))
        quality = judge(target, proposals, slope, intercept)
        return cls(network.cpu(), spec, slope, intercept, quality, target)  # it may travel to where there is no GPU

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]."""
        if self.column not in batch:
            raise InputError("column", self.column, f"is not among the rows' {sorted(batch)}", "propose images")
        logits = _logits(self.network.to(device()), batch[self.column])
        return torch.from_numpy(self.slope * logits + self.intercept)

    def save(self, folder: Path) -> None:
        """Write network.safetensors, network.json and ratio.json."""
        save_network(self.network, self.spec, folder, "network")
        described = {
            "slope": self.slope,
            "intercept": self.intercept,
            "column": self.column,
            "quality": asdict(self.quality),
            "target_log_ratio": self.target_log_ratio.tolist(),
        }
        (folder / "ratio.json").write_text(json.dumps(described, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> ClassifierRatio:
        """The inverse of `save`."""
        raw = json.loads((folder / "ratio.json").read_text())
        raw["quality"]["reliability"] = tuple(tuple(pair) for pair in raw["quality"]["reliability"])
        spec = NetworkSpec.from_json((folder / "network.json").read_text())
        quality = RatioQuality(**raw["quality"])
        scores = np.array(raw["target_log_ratio"])
        network = load_network(folder, "network")
        return cls(network, spec, raw["slope"], raw["intercept"], quality, scores, raw["column"])


def split_evidence(target: Tensor, proposals: Tensor, config: ClassifierRatioConfig, seed: int) -> Splits:
    """Shuffle and cut target images and proposals into disjoint parts."""
    if len(target) < MIN_TARGET_IMAGES:
        remedy = "give more target images"
        raise InputError("target", f"{len(target)} images", f"a ratio needs {MIN_TARGET_IMAGES} or more", remedy)
    if target.shape[1:] != proposals.shape[1:]:
        ours, theirs = list(target.shape[1:]), list(proposals.shape[1:])
        raise InputError("target", ours, f"images must be like the proposals {theirs}", "set the `size` of both")
    generator = Streams(seed, Stage.RATIO).numpy(purpose=3)

    def cut(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.from_numpy(generator.permutation(len(images)))
        num_calibration = max(1, round(len(images) * config.calibration_fraction))
        num_test = max(1, round(len(images) * config.test_fraction))
        calibration, test, fit = order.split([num_calibration, num_test, len(images) - num_calibration - num_test])
        return images[fit], images[calibration], images[test]

    return Splits(*(Split(*pair) for pair in zip(cut(target), cut(proposals), strict=True)))


def network_spec(config: ClassifierRatioConfig, channels: int) -> NetworkSpec:
    """One logit an image."""
    return NetworkSpec(config.network, num_outputs=1, channels=channels)


def build_network(spec: NetworkSpec, config: ClassifierRatioConfig, seed: int) -> ImageNetwork:
    """The network to be fitted."""
    network = spec.build(seed)
    return network.freeze_backbone() if config.freeze_backbone else network


def fit_network(network: ImageNetwork, split: Split, config: OptimizerConfig, seed: int) -> None:
    """Logistic regression on minibatches, half target and half proposals, drawn with replacement."""
    generator = Streams(seed, Stage.RATIO).torch(purpose=4)
    half = max(1, config.batch_size // 2)
    truth = torch.cat([torch.ones(half), torch.zeros(half)]).to(device())
    network.to(device())

    def next_loss() -> Tensor:
        rows = [part[torch.randint(len(part), (half,), generator=generator)] for part in _parts(split)]
        logits = network(torch.cat(rows).to(device()))[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(logits, truth)

    with Streams(seed, Stage.RATIO).torch_global(purpose=5):  # dropout
        descend(network, config, next_loss, "ratio.optimizer")


def calibrate(target_logit: Floats, proposal_logit: Floats) -> tuple[float, float]:
    """(slope, intercept) of a logistic regression on the logit, both classes at prior 1/2; the slope is at least 0."""
    logit = np.concatenate([target_logit, proposal_logit])
    truth, _ = _truth_and_weights(target_logit, proposal_logit)
    spread = float(logit.std()) or 1.0  # its units make the penalty, which bounds separable classes, scale-free
    fitted = LogisticRegression(C=100.0, class_weight="balanced").fit(logit[:, None] / spread, truth)
    slope = float(fitted.coef_[0, 0]) / spread
    return (slope, float(fitted.intercept_[0])) if slope > 0 else (0.0, 0.0)


def judge(target: Floats, proposals: Floats, slope: float, intercept: float, bins: int = 10) -> RatioQuality:
    """The figures of calibrated log ratios on held-out rows, both classes weighted to prior 1/2."""
    truth, weights = _truth_and_weights(target, proposals)
    log_ratio = np.concatenate([target, proposals])
    predicted = expit(log_ratio)
    reliability, error = _reliability(predicted, truth, weights, bins)
    return RatioQuality(
        num_target=len(target),
        num_proposals=len(proposals),
        log_loss=float(log_loss(truth, predicted, sample_weight=weights)),
        brier=float(brier_score_loss(truth, predicted, sample_weight=weights)),
        calibration_error=error,
        auc=float(roc_auc_score(truth, log_ratio)),
        slope=slope,
        intercept=intercept,
        mean_ratio_proposals=float(np.exp(proposals).mean()),
        mean_inverse_ratio_target=float(np.exp(-target).mean()),
        reliability=reliability,
    )


def _reliability(
    predicted: Floats, truth: NDArray[np.int64], weights: Floats, bins: int
) -> tuple[tuple[tuple[float, float], ...], float]:
    order = np.argsort(predicted, kind="stable")
    mass = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()  # up to each row's middle
    pairs, error = [], 0.0
    for rows in np.split(order, np.searchsorted(mass, np.arange(1, bins) / bins)):
        if len(rows):
            mean, share = (float(np.average(values[rows], weights=weights[rows])) for values in (predicted, truth))
            pairs.append((mean, share))
            error += abs(mean - share) * float(weights[rows].sum() / weights.sum())
    return tuple(pairs), error


def _truth_and_weights(target: Floats, proposals: Floats) -> tuple[NDArray[np.int64], Floats]:
    truth = np.repeat([1, 0], [len(target), len(proposals)])
    weights = np.repeat([0.5 / len(target), 0.5 / len(proposals)], [len(target), len(proposals)])
    return truth, weights


def _parts(split: Split) -> tuple[Tensor, Tensor]:
    return split.target, split.proposals


def _logits(network: nn.Module, images: Tensor) -> Floats:
    with torch.inference_mode():
        pieces = [network(piece.to(device()))[:, 0].double() for piece in images.split(_SCORE_BATCH)]
    return torch.cat(pieces).cpu().numpy() if pieces else np.empty(0)
