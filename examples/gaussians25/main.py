"""A comparison of a small GAN's samples of 25 Gaussians before and after rejection on a learned density ratio.

p is a mixture of 25 Gaussians of standard deviation 0.05 with means on {-2, -1, 0, 1, 2}^2, as in discriminator
rejection sampling (Azadi et al. 2018, arXiv 1810.06758) and MH-GAN (Turner et al. 2019, arXiv 1811.11357). q is a GAN
that leaves rows between the modes (gan.py).

Two ratios are compared. The first is a classifier fitted on fresh real rows and fresh generated rows. The second is the
logit of the GAN's own discriminator, as in those papers. Each ratio is used in three ways: with M from a pilot, with an
M that keeps a fifth of the proposals, and with the gamma shift of discriminator rejection sampling. A row is good if it
lies within four standard deviations of a mean.

    python examples/gaussians25/main.py [--seed 0] [--rows 10000] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from gan import CENTRES, LATENT, SD, real, train_gan
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import log_expit
from torch import Tensor, nn

import rsf_dist as rsf
from rsf_dist.config.ratio import ClassifierRatioConfig
from rsf_dist.data.arrow import from_table
from rsf_dist.ratios import Ratio
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.chunk import propose_and_score

GOOD = 4 * SD
ENVELOPES = {
    "pilot": rsf.PilotEnvelope(num_pilot=1_000),  # one proposal in 1,001 is capped, in expectation
    "budget": rsf.BudgetEnvelope(acceptance=0.2),
}
ARMS = (*ENVELOPES, "drs")


# Ray's workers get these three classes by value, because they cannot import modules beside this script.
class GeneratorProposal:
    """A proposal x = G(z), z ~ N(0, I). The density of x is unknown."""

    def __init__(self, generator: nn.Module):
        self.generator = generator

    def sample(self, n: int, rng: Streams) -> dict[str, Tensor]:
        """Draw n rows, {"x": float32 [n, 2]}."""
        with torch.no_grad():
            return {"x": self.generator(torch.randn(n, LATENT, generator=rng.torch()))}


class DiscriminatorRatio:
    """The discriminator's logit as log r(x). It is log p/q if the discriminator is optimal (Goodfellow et al. 2014)."""

    log_bound = None

    def __init__(self, discriminator: nn.Module):
        self.discriminator = discriminator

    def log_ratio(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the logits, float64 [n]."""
        with torch.no_grad():
            return self.discriminator(batch["x"])[:, 0].double()


class GammaShiftRatio:
    """The ratio under which rejection sampling is discriminator rejection sampling (Azadi et al., ICLR 2019, eq. 8).

    DRS accepts a row with probability a = sigmoid(F - gamma), F = log s - log(1 - s e^-eps), s = min(1, r/M). A log
    ratio of log M + log a accepts with the same probability under the envelope log M. With eps = 0,
    a = s/(s + (1 - s) e^gamma) is proportional to r only at gamma = 0. A gamma below 0 flattens large ratios. A gamma
    above 0 favours them.
    """

    def __init__(self, ratio: Ratio, log_m: float, gamma: float, eps: float = 1e-8):
        self.ratio, self.log_bound, self.gamma, self.eps = ratio, log_m, gamma, eps

    def log_ratio(self, batch: dict[str, Tensor]) -> Tensor:
        """Return log M + log a, float64 [n]."""
        logit = drs_logit(self.ratio.log_ratio(batch).numpy(), self.log_bound, self.eps)
        return torch.from_numpy(self.log_bound + log_expit(logit - self.gamma))


def drs_logit(log_ratio: NDArray[np.float64], log_m: float, eps: float = 1e-8) -> NDArray[np.float64]:
    """Return F of each row, float64 [n]. It is NaN where r is NaN or infinite, so that the sampler refuses the row."""
    log_s = np.where(log_ratio < np.inf, np.minimum(log_ratio - log_m, 0.0), np.nan)
    return log_s - np.log1p(-np.exp(log_s - eps))


def fit_gamma_shift(proposal: GeneratorProposal, ratio: Ratio, seed: int, percentile: float = 95.0) -> GammaShiftRatio:
    """Take M, the largest ratio, and gamma, a percentile of F, from a pilot of 10,000 proposals.

    The paper lets M grow during sampling. Here M stays as the pilot gives it.
    """
    _, log_ratio, _ = propose_and_score(proposal, ratio, Streams(seed, Stage.PILOT), 10_000)
    log_m = float(log_ratio.max())
    gamma = float(np.percentile(drs_logit(log_ratio, log_m), percentile, method="higher"))
    return GammaShiftRatio(ratio, log_m, gamma)


def learn_ratio(proposal: GeneratorProposal, steps: int, seed: int) -> rsf.ClassifierRatio:
    """Fit a classifier on equally many real and generated rows. The GAN was not trained on any of them."""
    config = ClassifierRatioConfig(
        network={"name": "mlp", "width": 100, "depth": 3, "dropout": 0.0},
        optimizer={"steps": steps, "batch_size": 2048, "learning_rate": 2e-3, "weight_decay": 0.0},
        num_proposals=100_000,
        ensemble=2,  # a single network has spikes, and the largest spike would become M
        calibration_fraction=0.1,
        test_fraction=0.1,
    )
    streams = Streams(seed, Stage.RATIO)
    proposals = proposal.sample(config.num_proposals, streams)["x"]
    return rsf.ClassifierRatio.fit(
        real(config.num_proposals, streams.torch(purpose=0)), proposals, config, seed, column="x"
    )


@dataclass(frozen=True)
class Quality:
    """The closeness of rows to the mixture.

    Args:
        good: share of rows within GOOD of a mean.
        modes: number of means with at least one good row.
        fair_modes: number of means with at least a quarter of their fair share of rows.
        sd: root mean square distance of good rows from their mean, per coordinate; 0.05 is right.
        mode_tv: total variation distance between the distribution of the good rows over the modes and the uniform one.
        energy: energy distance (Székely & Rizzo 2013) to real rows, over 4,000 rows of each.
    """

    good: float
    modes: int
    fair_modes: int
    sd: float
    mode_tv: float
    energy: float

    @staticmethod
    def of(x: Tensor, truth: Tensor) -> Quality:
        """Measure rows x [n, 2] against real rows `truth` [m, 2]."""
        distance, mode = torch.cdist(x, CENTRES).min(dim=1)
        good = distance <= GOOD
        counts = torch.bincount(mode[good], minlength=len(CENTRES))
        return Quality(
            good=good.double().mean().item(),
            modes=int((counts > 0).sum()),
            fair_modes=int((counts >= len(x) / len(CENTRES) / 4).sum()),
            sd=(distance[good].double().square().mean() / 2).sqrt().item(),
            mode_tv=(counts / counts.sum() - 1 / len(CENTRES)).abs().sum().item() / 2,
            energy=_energy(x[:4_000].double(), truth[:4_000].double()),
        )


def _energy(x: Tensor, y: Tensor) -> float:
    """Estimate 2 E|x - y| - E|x - x'| - E|y - y'| without bias: pairs of a row with itself are left out."""

    def within(rows: Tensor) -> Tensor:
        return torch.cdist(rows, rows).sum() / (len(rows) * (len(rows) - 1))

    return (2 * torch.cdist(x, y).mean() - within(x) - within(y)).item()


def draw_figure(samples: Mapping[str, Tensor], qualities: Mapping[str, Quality], path: Path) -> None:
    """Draw a panel for each sample, good rows in blue and others in orange."""
    names = ["real", *(f"classifier, {arm}" for arm in ARMS)]
    names += ["generator", *(f"discriminator, {arm}" for arm in ARMS)]
    figure = Figure(figsize=(13, 6.9), layout="constrained")
    for axes, name in zip(figure.subplots(2, len(names) // 2).flat, names, strict=True):
        x = samples[name][:5_000]
        good = torch.cdist(x, CENTRES).min(dim=1).values <= GOOD
        for rows, colour in ((x[good], "#2f6fb3"), (x[~good], "#e0701b")):
            axes.scatter(*rows.T, s=2.0, linewidths=0, alpha=0.6, color=colour, rasterized=True)
        axes.set_title(f"{name}: {100 * qualities[name].good:.1f} % good", fontsize=11)
        axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), xticks=[], yticks=[], aspect="equal")
    figure.savefig(path, dpi=130)


def print_row(name: str, quality: Quality, report: rsf.SamplingReport | None = None) -> None:
    """Print one line of the table."""
    sampled = f"{report.acceptance_rate:>10.4f}{report.num_capped:>9,}" if report else ""
    print(
        f"{name:24}{quality.good:>8.4f}{quality.modes:>7}{quality.fair_modes:>6}{quality.sd:>8.4f}"
        f"{quality.mode_tv:>9.4f}{quality.energy:>9.4f}{sampled}",
        flush=True,
    )


def main(arguments: argparse.Namespace) -> None:
    """Train the GAN, learn its ratio, reject, print the table row by row, and write results.json and scatter.png."""
    torch.set_num_threads(1)  # sums of floats must not depend on the number of cores
    seed, rows = arguments.seed, arguments.rows
    gan = train_gan(arguments.steps, seed)
    proposal = GeneratorProposal(gan.generator)
    classifier = learn_ratio(proposal, arguments.ratio_steps, seed)
    ratios = {"classifier": classifier, "discriminator": DiscriminatorRatio(gan.discriminator)}

    streams = Streams(seed, Stage.TARGET)
    truth = real(rows, streams.torch(purpose=0))
    samples = {"real": real(rows, streams.torch(purpose=3)), "generator": proposal.sample(rows, streams)["x"]}
    reports: dict[str, rsf.SamplingReport] = {}
    print(f"{'':24}    good  modes  fair      sd  mode TV   energy  accepted   capped")
    for name, x in samples.items():
        print_row(name, Quality.of(x, truth))
    with rsf.connect():
        for kind, ratio in ratios.items():
            shifted = fit_gamma_shift(proposal, ratio, seed)
            arms = {how: (ratio, envelope) for how, envelope in ENVELOPES.items()}
            arms["drs"] = shifted, rsf.FixedEnvelope(shifted.log_bound)
            for how, (scored, envelope) in arms.items():
                name = f"{kind}, {how}"
                accepted = rsf.RejectionSampler(proposal, scored, envelope, seed=seed, chunk_size=16_384).sample(rows)
                samples[name], reports[name] = from_table(accepted.head(rows))["x"], accepted.report
                print_row(name, Quality.of(samples[name], truth), accepted.report)

    qualities = {name: Quality.of(x, truth) for name, x in samples.items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    draw_figure(samples, qualities, arguments.output / "scatter.png")
    results = {
        "settings": {"seed": seed, "rows": rows, "steps": arguments.steps, "ratio_steps": arguments.ratio_steps},
        "classifier": asdict(classifier.quality),
        "quality": {name: asdict(quality) for name, quality in qualities.items()},
        "sampling": {name: report.to_dict() for name, report in reports.items()},
    }
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4_000, help="training steps of the GAN")
    parser.add_argument("--ratio-steps", type=int, default=8_000, help="training steps of each classifier network")
    parser.add_argument("--rows", type=int, default=10_000, help="rows that each arm accepts")
    parser.add_argument("--output", type=Path, default=Path("runs/gaussians25"))
    try:
        main(parser.parse_args())
    except rsf.RsfError as err:
        parser.exit(err.exit_code, f"error: {err}\n")
