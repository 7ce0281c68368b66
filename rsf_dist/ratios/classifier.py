"""The ratio that is learned by telling target rows from proposals.

For D(x) = P(target | x) under balanced classes, log p(x)/q(x) = logit D(x) at the Bayes optimum (Bickel, Brückner &
Scheffer, JMLR 2009; Sugiyama, Suzuki & Kanamori 2012). A network, or an ensemble of them whose logits are averaged, is
fitted on balanced minibatches of one part of the target rows and of the proposals; the logit is calibrated
(`ratios.calibration`) on a second part; every reported figure comes from a third. On a frozen backbone's features z the
ratio is p(z)/q(z), which equals p(x)/q(x) only where p(x|z) = q(x|z). Degenerate case: p = q gives log ratio ~ 0
and acceptance at random.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn

from rsf_dist.config.model import OptimizerConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig
from rsf_dist.data.batch import Batch, take_rows
from rsf_dist.errors import InputError, StatisticalRefusal, located
from rsf_dist.models.networks import Network, in_pieces
from rsf_dist.models.optimization import descend
from rsf_dist.models.spec import NetworkSpec, load_network, save_network
from rsf_dist.ratios import calibration as calibrations
from rsf_dist.ratios.calibration import Calibration, calibrate, truth_and_weights
from rsf_dist.ratios.info import HeldOut, RatioInfo, RatioQuality
from rsf_dist.ratios.rows import MIN_ROWS, require_learnable, require_rank
from rsf_dist.runtime.device import device, seeded, to_cpu_copy
from rsf_dist.runtime.rng import Purpose, Stage, Streams
from rsf_dist.types import Floats

MIN_TARGET_IMAGES = MIN_ROWS


@dataclass(frozen=True)
class Split:
    """The target rows and the proposals of one part: images uint8 [n, c, h, w], or numbers float [n, d]."""

    target: Tensor
    proposals: Tensor


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of the rows.

    Args:
        fit: the part to fit on.
        calibration: the part to calibrate on.
        test: the part for the reported figures.
        test_index: positions of the test part's target rows, int64 [n].
    """

    fit: Split
    calibration: Split
    test: Split
    test_index: NDArray[np.int64]


class ClassifierRatio:
    """The ratio log r(x) = the calibrated mean of the networks' logits, cut off at `max_log_ratio`.

    Args:
        networks: fitted networks, rows -> logits [n, 1].
        spec: the networks' common specification. None means networks of one's own, which cannot be saved.
        calibration: the map from the logit to the log ratio.
        quality: the ratio's figures on the test part.
        target_log_ratio: log r of the test part's target rows, float64 [m]. They are not cut off, so that the p-side TV
            bound shows the cost of cutting.
        test_index: positions of the test part's target rows among those given to `fit`, int64 [m].
        column: the column that the networks look at.
        max_log_ratio: the value at which log r is cut off. None means no cut.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        spec: NetworkSpec | None,
        calibration: Calibration,
        quality: RatioQuality,
        target_log_ratio: Floats,
        test_index: NDArray[np.int64],
        column: str = "image",
        max_log_ratio: float | None = None,
    ):
        self.networks = [network.eval() for network in networks]
        self.spec, self.calibration, self.quality = spec, calibration, quality
        self.target_log_ratio, self.test_index = target_log_ratio, test_index
        self.column, self.max_log_ratio = column, max_log_ratio
        held_out = HeldOut(target_log_ratio, test_index)
        self.info = RatioInfo(normalised=True, on_device=True, held_out=held_out, quality=quality)

    @property
    def log_bound(self) -> float | None:
        """The smaller of `max_log_ratio` and the calibration's own bound. None means that there is neither."""
        bounds = [bound for bound in (self.calibration.log_bound, self.max_log_ratio) if bound is not None]
        return min(bounds, default=None)

    @classmethod
    def fit(
        cls,
        target: Tensor,
        proposals: Tensor,
        config: ClassifierRatioConfig | None = None,
        seed: int = 0,
        column: str = "image",
        initial: Sequence[Network] | None = None,
        split_seed: int | None = None,
    ) -> ClassifierRatio:
        """Fit and calibrate in this process.

        Args:
            target, proposals: images uint8 [n, c, h, w]; or float [n, d], with config.network.name `mlp`.
            config: networks, optimizer, calibration and splits.
            seed: the seed of the splits, the weights and the minibatches.
            column: the column of the rows to score.
            initial: fitted networks to start from, one a member, which are not changed. None means new networks.
            split_seed: the seed of the splits alone, with which several fits hold out the same target rows. None means
                `seed`.

        Raises:
            InputError: too few target rows or proposals, rows that differ in shape or are no finite numbers.
            StatisticalRefusal: the loss, or a fitted logit, is not finite.
        """
        config = config or ClassifierRatioConfig()
        splits = split_samples(target, proposals, config, seed if split_seed is None else split_seed)
        config = config.for_rows(target.shape[1:])
        spec = network_spec(config, channels=target.shape[1])
        networks = []
        for member in range(config.ensemble):
            network = initial_network(spec, config, seed, member, initial)
            fit_network(network, splits.fit, config.optimizer, member_seed(seed, member))
            networks.append(network)
        return cls.calibrated(networks, spec, splits, config, column)

    @classmethod
    def calibrated(
        cls,
        networks: Sequence[Network],
        spec: NetworkSpec,
        splits: Splits,
        config: ClassifierRatioConfig,
        column: str = "image",
    ) -> ClassifierRatio:
        """Calibrate fitted networks on `splits.calibration` and evaluate them on `splits.test`.

        Raises StatisticalRefusal where a logit is not finite.
        """
        for network in networks:
            network.to(device()).eval()
        on_target, on_proposals = (_finite_logits(networks, part) for part in _parts(splits.calibration))
        calibration = calibrate(on_target, on_proposals, config.calibration)

        highest = config.max_log_ratio
        target, proposals = (calibration(_finite_logits(networks, part)) for part in _parts(splits.test))
        quality = evaluate_ratio(_clip(target, highest), _clip(proposals, highest), str(calibration))
        return cls(networks, spec, calibration, quality, target, splits.test_index, column, highest)

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n]."""
        if self.column not in batch:
            raise InputError(
                "column", self.column, f"is not among the rows' {sorted(batch)}", "propose that column", absolute=True
            )
        rows = batch[self.column]
        if self.spec is not None:  # a network of one's own may take rows of any shape
            _require_alike(self.column, rows, self.spec.channels)
        logits = _logits([network.to(device()) for network in self.networks], rows)
        return torch.from_numpy(_clip(self.calibration(logits), self.max_log_ratio))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"networks": [to_cpu_copy(network) for network in self.networks]}

    def save(self, folder: Path) -> None:
        """Write network-0.safetensors, network-0.json, …, and ratio.json."""
        assert self.spec is not None
        for number, network in enumerate(self.networks):
            save_network(network, self.spec, folder, f"network-{number}")
        described = {
            "networks": len(self.networks),
            "calibration": calibrations.to_json(self.calibration),
            "column": self.column,
            "max_log_ratio": self.max_log_ratio,
            "quality": asdict(self.quality),
            "target_log_ratio": self.target_log_ratio.tolist(),
            "test_index": self.test_index.tolist(),
        }
        (folder / "ratio.json").write_text(json.dumps(described, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> ClassifierRatio:
        """Read a ratio that `save` wrote."""
        raw = json.loads((folder / "ratio.json").read_text())
        raw["quality"]["reliability"] = tuple(tuple(pair) for pair in raw["quality"]["reliability"])
        return cls(
            [load_network(folder, f"network-{number}") for number in range(raw["networks"])],
            NetworkSpec.from_json((folder / "network-0.json").read_text()),
            calibrations.from_json(raw["calibration"]),
            RatioQuality(**raw["quality"]),
            np.array(raw["target_log_ratio"]),
            np.array(raw["test_index"], np.int64),
            raw["column"],
            raw["max_log_ratio"],
        )


def split_samples(target: Tensor, proposals: Tensor, config: ClassifierRatioConfig, seed: int) -> Splits:
    """Shuffle and cut target rows and proposals into disjoint parts. Raises InputError as `require_learnable`."""
    require_learnable(target, proposals)
    generator = Streams(seed, Stage.RATIO).numpy(Purpose.SPLIT)

    def cut(n: int) -> Sequence[Tensor]:
        order = torch.from_numpy(generator.permutation(n))
        num_calibration = max(1, round(n * config.calibration_fraction))
        num_test = max(1, round(n * config.test_fraction))
        calibration, test, fit = order.split([num_calibration, num_test, n - num_calibration - num_test])
        return fit, calibration, test

    of_target, of_proposals = cut(len(target)), cut(len(proposals))
    fit, calibration, test = (
        Split(target[left], proposals[right]) for left, right in zip(of_target, of_proposals, strict=True)
    )
    return Splits(fit, calibration, test, of_target[2].numpy())


def member_seed(seed: int, member: int) -> int:
    """Return the seed of an ensemble's member; the first member has the run's own."""
    return seed if member == 0 else Streams(seed, Stage.RATIO, chunk=member).integer(2**32, Purpose.ENSEMBLE_MEMBER)


def network_spec(config: ClassifierRatioConfig, channels: int) -> NetworkSpec:
    """Return the specification of a network that gives one logit a row."""
    return NetworkSpec(config.network or RatioNetworkConfig(), num_outputs=1, channels=channels)


def build_network(spec: NetworkSpec, config: ClassifierRatioConfig, seed: int) -> Network:
    """Build the network to fit."""
    with located("network"):
        network = spec.build(seed)
    return network.freeze_backbone() if config.freeze_backbone else network


def initial_network(
    spec: NetworkSpec, config: ClassifierRatioConfig, seed: int, member: int, initial: Sequence[Network] | None
) -> Network:
    """Return the network that a member's fit starts from: a new network, or a copy of the initial one."""
    if initial is None:
        return build_network(spec, config, member_seed(seed, member))
    network = copy.deepcopy(initial[member])
    return network.freeze_backbone() if config.freeze_backbone else network


def fit_network(network: Network, split: Split, config: OptimizerConfig, seed: int) -> None:
    """Fit by logistic regression on minibatches, half target and half proposals, drawn with replacement."""
    generator = Streams(seed, Stage.RATIO).torch(Purpose.MINIBATCHES)
    half = max(1, config.batch_size // 2)
    truth = torch.cat([torch.ones(half), torch.zeros(half)]).to(device())
    network.to(device())
    parts: Sequence[Tensor] = _parts(split)
    fitted: nn.Module = network
    if network.frozen_backbone:  # its features never change: compute them once, and fit the head alone
        network.eval()
        parts, fitted = (
            [in_pieces(network.features, part, network.numbers_per_row(part)).cpu().clone() for part in parts],
            network.head,
        )

    def next_loss() -> Tensor:
        rows = [take_rows(part, torch.randint(len(part), (half,), generator=generator)) for part in parts]
        logits = fitted(torch.cat(rows).to(device()))[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(logits, truth)

    with seeded(Streams(seed, Stage.RATIO), Purpose.DROPOUT), located("optimizer"):
        descend(fitted, config, next_loss)


def evaluate_ratio(target: Floats, proposals: Floats, calibration: str, bins: int = 10) -> RatioQuality:
    """Compute the figures of calibrated log ratios on held-out rows, both classes weighted to prior 1/2."""
    from sklearn.metrics import (
        brier_score_loss,
        log_loss,
        roc_auc_score,
    )  # slow to import, and neither sampling nor training evaluates

    truth, weights = truth_and_weights(target, proposals)
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
        calibration=calibration,
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


def _parts(split: Split) -> tuple[Tensor, Tensor]:
    return split.target, split.proposals


def _clip(log_ratio: Floats, highest: float | None) -> Floats:
    return log_ratio if highest is None else np.minimum(log_ratio, highest)


def _logits(networks: Sequence[Network], rows: Tensor) -> Floats:
    """Return the mean of the networks' logits, float64 [n]."""
    members = [in_pieces(network, rows, network.numbers_per_row(rows))[:, 0].double() for network in networks]
    return torch.stack(members).mean(dim=0).detach().cpu().numpy()


def _require_alike(column: str, rows: Tensor, channels: int) -> None:
    """Raise InputError unless rows have a rank that a ratio is learned from, and rows of numbers this length."""
    require_rank(column, rows)
    if rows.ndim == 2 and rows.shape[1] != channels:
        rule = f"the ratio was learned from rows of {channels} numbers"
        raise InputError(column, f"rows of {rows.shape[1]} numbers", rule, "propose such rows", absolute=True)


def _finite_logits(networks: Sequence[Network], rows: Tensor) -> Floats:
    """Return `_logits`. Raises StatisticalRefusal unless all are finite: the last step's weights are in no loss."""
    logits = _logits(networks, rows)
    if not np.isfinite(logits).all():
        remedy = "lower {key}"
        raise StatisticalRefusal("the fitted network's logits are not finite", remedy, key="optimizer.learning_rate")
    return logits
