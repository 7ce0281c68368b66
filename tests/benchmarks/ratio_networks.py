"""Measure networks for the ratio of photographs: CPU time and held-out AUC.

    python tests/benchmarks/ratio_networks.py FOLDER SIZE TARGET      (e.g. photographs 224 grain; targets: dim, grain)

FOLDER holds photographs of at least 448 x 224 pixels, e.g. those in the wheels of scikit-image, scikit-learn and
deepforest. Every image is a crop of 224 x 224 pixels, scaled to the size. Proposals vary in light, grain and position.
Target domains are crops under a narrow distribution of these. Networks are fitted on crops from the left halves of the
photographs, and the AUC is that of crops from the right halves. Networks by import path are looked for in
examples/backbones; the features of EfficientNet-Lite0 are computed once, and a logistic or a small multilayer head is
fitted on them. The table goes to standard output, a line a measurement as it is made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.distributions import Distribution, Normal, Uniform
from torchvision.transforms.v2 import functional as F

from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.models.networks import Network, in_pieces
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.proposals.rendering import render
from rsf_dist.ratios.classifier import Split, fit_network
from rsf_dist.runtime import user_code

CROP, NUM_TARGET, NUM_PROPOSALS = 224, 120, 240
STEPS, BATCH = 100, 32

BROAD: dict[str, Distribution] = {
    "rotation": Uniform(-0.2, 0.2),
    "scale": Uniform(0.9, 1.6),
    "brightness": Uniform(0.4, 1.4),
    "contrast": Uniform(0.6, 1.4),
    "noise": Uniform(0.0, 0.08),
}
TARGETS: dict[str, dict[str, Distribution]] = {
    "dim": {"brightness": Normal(0.6, 0.08), "contrast": Normal(0.8, 0.05), "noise": Normal(0.03, 0.005)},
    "grain": {"noise": Normal(0.06, 0.005)},
}

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rows:
    """Target images and proposals to fit on, and others to test on."""

    fit: Split
    test: Split


def main(folder: str, size: int, target: str) -> None:
    """Measure every network at one size and for one target domain."""
    torch.set_num_threads(1)
    user_code.allow_folder(str(Path(__file__).parents[2] / "examples" / "backbones"))
    photographs = [photograph for path in sorted(Path(folder).iterdir()) for photograph in _read(path)]
    print("pixels, network, target domain: seconds of CPU to fit, ms to score an image, held-out AUC", flush=True)
    rows = _rows(photographs, size, TARGETS[target])
    for network, seconds, milliseconds, auc in _measured(rows, size):
        print(f"{size:4} {network:38} {target:6} {seconds:8.1f} {milliseconds:8.2f} {auc:6.3f}", flush=True)


def _read(path: Path) -> Iterator[Tensor]:
    image = Image.open(path).convert("RGB")
    scale = max(CROP / image.height, 2 * CROP / image.width, 480 / min(image.size))
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    yield F.pil_to_tensor(resized)


def _rows(photographs: list[Tensor], size: int, target: dict[str, Distribution]) -> Rows:
    torch.manual_seed(0)

    def split(right: bool) -> Split:
        crops = [_crops(photographs, n, size, right) for n in (NUM_TARGET, NUM_PROPOSALS)]
        return Split(_varied(crops[0], target), _varied(crops[1], BROAD))

    return Rows(split(right=False), split(right=True))


def _crops(photographs: list[Tensor], n: int, size: int, right: bool) -> Tensor:
    def crop(number: int) -> Tensor:
        image = photographs[number % len(photographs)]
        half = image.shape[2] // 2
        top = int(torch.randint(image.shape[1] - CROP + 1, ()))
        left = int(torch.randint(half - CROP + 1, ())) + right * half
        return F.resize(image[:, top : top + CROP, left : left + CROP], [size, size], antialias=True)

    return torch.stack([crop(number) for number in range(n)])


def _varied(images: Tensor, distributions: dict[str, Distribution]) -> Tensor:
    parameters = {name: distribution.sample(torch.Size([len(images)])) for name, distribution in distributions.items()}
    parts = zip(images.split(50), *(values.split(50) for values in parameters.values()), strict=True)
    generator = torch.Generator().manual_seed(1)
    return torch.cat([render(part, dict(zip(parameters, drawn, strict=True)), generator) for part, *drawn in parts])


def _measured(rows: Rows, size: int) -> Iterator[tuple[str, float, float, float]]:
    configs = {"small_cnn": ModelConfig(dropout=0.5)}
    if size > 32:
        configs["small_cnn, input_size 32"] = ModelConfig(dropout=0.5, input_size=(32, 32))
        for positions in (32, 16):
            stride = size // positions
            configs[f"small_cnn, stride {stride}"] = ModelConfig(dropout=0.5, stride=stride)
        configs["small_cnn"] = configs.pop("small_cnn")
    for name, config in configs.items():
        if size < 224 or name != "small_cnn":
            yield (name, *_fitted(config, rows))
    yield from _on_features(rows)


def _fitted(config: ModelConfig, rows: Rows) -> tuple[float, float, float]:
    network = NetworkSpec(config, 1, 3).build(0)
    began = time.process_time()
    optimizer = OptimizerConfig(steps=STEPS, batch_size=BATCH, learning_rate=2e-3, weight_decay=0.05)
    fit_network(network, rows.fit, optimizer, seed=0)
    return (time.process_time() - began, *_tested(lambda images: _logits(network.eval(), images), rows.test))


def _on_features(rows: Rows) -> Iterator[tuple[str, float, float, float]]:
    enlarged = (64, 64) if rows.fit.target.shape[-1] < 64 else None
    config = ModelConfig(name="efficientnet_lite0:build", input_size=enlarged)
    network = NetworkSpec(config, 1, 3).build(0).eval()
    began = time.process_time()
    fit, test = (
        Split(_features(network, part.target), _features(network, part.proposals)) for part in (rows.fit, rows.test)
    )
    num_rows = 2 * (NUM_TARGET + NUM_PROPOSALS)
    each = (time.process_time() - began) / num_rows
    truth = torch.cat([torch.ones(NUM_TARGET), torch.zeros(NUM_PROPOSALS)])
    heads = {
        "logistic head": LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000),
        "multilayer head": MLPClassifier((64,), alpha=1.0, max_iter=50, random_state=0),
    }
    for name, head in heads.items():
        began = time.process_time()
        model = make_pipeline(StandardScaler(), head).fit(torch.cat([fit.target, fit.proposals]), truth)
        seconds = time.process_time() - began + each * (NUM_TARGET + NUM_PROPOSALS)
        logits = model.predict_proba(torch.cat([test.target, test.proposals]))[:, 1]
        yield f"EfficientNet-Lite0, {name}", seconds, 1000 * each, float(roc_auc_score(truth, logits))


def _tested(score: Score, test: Split) -> tuple[float, float]:
    began = time.process_time()
    logits = torch.cat([score(test.target), score(test.proposals)])
    milliseconds = 1000 * (time.process_time() - began) / len(logits)
    truth = torch.cat([torch.ones(len(test.target)), torch.zeros(len(test.proposals))])
    return milliseconds, float(roc_auc_score(truth, logits))


def _logits(network: Network, images: Tensor) -> Tensor:
    return in_pieces(network, images, network.numbers_per_row(images))[:, 0]


def _features(network: Network, images: Tensor) -> Tensor:
    return in_pieces(network.features, images, network.numbers_per_row(images)).clone()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
