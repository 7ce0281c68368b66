"""Rejection sampling fine-tuning in its smallest form: one row at a time, then the same on rsf_dist.

p = N(0, I) and q = N(0, 1.15^2 I) in ten dimensions, so M = sup p/q = 1.15^10 = 4.05 is exact. In theory a proposal
is accepted with probability 1/M = 0.247. A network of 10-10-2 units learns on which side of a plane each row lies, with
SGD at a learning rate of 0.01 and cross entropy.

    python examples/seed/main.py            (needs rsf_dist; starts a Ray cluster of its own)
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

import rsf_dist as rsf
from rsf_dist.sampling.diagnostics import acceptance_interval

DIMENSIONS, SCALE, LEARNING_RATE = 10, 1.15, 0.01
P = Independent(Normal(torch.zeros(DIMENSIONS), 1.0), 1)
Q = Independent(Normal(torch.zeros(DIMENSIONS), SCALE), 1)
LOG_M = DIMENSIONS * math.log(SCALE)


class Net(nn.Module):
    """A network of 10 inputs, 10 hidden units and 2 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIMENSIONS, 10)
        self.fc2 = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, 2]."""
        return self.fc2(torch.relu(self.fc1(x)))


def label(x: Tensor) -> Tensor:
    """Return the side of the plane sum(x) = 0 on which each row lies, 0 or 1, [n]."""
    return (x.sum(-1) > 0).long()


def one_row_at_a_time(num_rows: int) -> float:
    """Run the textbook loop of draw, decide and step. Return the accepted rows per second of sampling."""
    torch.manual_seed(0)
    net, loss = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    proposed, sampling = 0, 0.0
    for _ in range(num_rows):
        started = time.perf_counter()
        while True:
            x = Q.sample()
            proposed += 1
            if torch.rand(()) < torch.exp(P.log_prob(x) - Q.log_prob(x) - LOG_M):
                break
        sampling += time.perf_counter() - started
        optimizer.zero_grad()
        loss(net(x[None]), label(x[None])).backward()
        optimizer.step()
    _print_result("one row at a time", proposed, num_rows, num_rows / sampling, _accuracy(net))
    return num_rows / sampling


class PlaneTask:
    """A task for rsf_dist's trainer with the same network, loss and labels."""

    columns = ("x",)
    metric = "accuracy"

    def build_model(self, seed: int) -> Net:
        """Return a network whose weights are drawn from `seed`."""
        torch.manual_seed(seed)
        return Net()

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Return the cross entropy of each row, [n]."""
        return F.cross_entropy(model(batch["x"]), label(batch["x"]), reduction="none")

    def metrics(self) -> MetricCollection:
        """Return the accuracy, of no rows yet."""
        return MetricCollection({"accuracy": BinaryAccuracy()})

    def update(self, metrics: MetricCollection, model: nn.Module, batch: dict[str, Tensor]) -> None:
        """Add a batch to the metrics."""
        metrics.update(model(batch["x"]).argmax(1), label(batch["x"]))

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the weights to model.safetensors."""
        save_file(model.state_dict(), folder / "model.safetensors")

    def load(self, folder: Path) -> Net:
        """Read the network that `save` wrote."""
        net = Net()
        net.load_state_dict(load_file(folder / "model.safetensors"))
        return net.eval()


def on_rsf_dist(num_rows: int) -> float:
    """Sample the same p, q and M on a pool of actors, and train the same network with the same learning rate.

    Returns:
        Accepted rows per second of sampling.
    """
    proposal = rsf.DistributionProposal(Q)
    ratio = rsf.DensityRatio(P, proposal, log_bound=LOG_M)
    with rsf.connect():
        sampler = rsf.RejectionSampler(proposal, ratio, rsf.FixedEnvelope(LOG_M), chunk_size=16_384)
        accepted = sampler.sample(num_rows)
        training = rsf.TrainingConfig(
            algorithm="sgd",
            schedule="constant",
            learning_rate=LEARNING_RATE,
            weight_decay=0,
            batch_size=32,
            steps=num_rows // 32,
            evaluate_every=num_rows // 32,
        )
        tuned = rsf.FineTuner(PlaneTask(), training).fit(accepted.dataset)
    report = accepted.report
    rate = report.num_accepted / report.seconds
    _print_result("rsf_dist", report.num_proposed, report.num_accepted, rate, _accuracy(tuned.load_model()))
    return rate


def _accuracy(net: nn.Module) -> float:
    x = P.sample(torch.Size([20_000]))
    with torch.inference_mode():
        return float((net(x).argmax(1) == label(x)).float().mean())


def _print_result(name: str, proposed: int, accepted: int, rate: float, accuracy: float) -> None:
    low, high = acceptance_interval(proposed, accepted, stopped=True, confidence=0.999)
    theory = math.exp(-LOG_M)
    verdict = "agrees" if low <= theory <= high else "DISAGREES"
    print(f"{name}: {accepted:,} rows of {proposed:,} proposals, {rate:,.0f} a second, accuracy {accuracy:.3f}")
    print(
        f"  acceptance {accepted / proposed:.4f}, 99.9 % interval ({low:.4f}, {high:.4f}); 1/M = {theory:.4f} {verdict}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop-rows", type=int, default=2_000, help="rows of the one-row loop")
    parser.add_argument("--rows", type=int, default=200_000, help="rows on rsf_dist")
    arguments = parser.parse_args()
    loop = one_row_at_a_time(arguments.loop_rows)
    pool = on_rsf_dist(arguments.rows)
    print(f"rsf_dist samples {pool / loop:.1f} times as fast, the start of its actors included")
