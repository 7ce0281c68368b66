"""The baselines of rejection sampling: other rows to train on, and methods that need no proposals.

Batch norm statistics of the target: Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016
(arXiv 1603.04779). Pseudo-labels: Lee, ICML workshop 2013. Importance weights: Shimodaira, JSPI 2000.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import Dataset
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from rsf_dist.cluster.ray_workarounds import preserve_order
from rsf_dist.cluster.workers import limit_to_allocation, run_in_task
from rsf_dist.config.resources import Share
from rsf_dist.config.run import RunConfig
from rsf_dist.data.arrow import from_table, to_table
from rsf_dist.data.batch import take_rows
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import StatisticalRefusal, located
from rsf_dist.models.networks import require_batch_norm
from rsf_dist.proposals import Pool, Proposal
from rsf_dist.ratios import ConstantRatio, Ratio
from rsf_dist.ratios.base import log_ratios
from rsf_dist.runtime.device import device, seeded
from rsf_dist.runtime.rng import Purpose, Stage, Streams
from rsf_dist.sampling.envelope import FixedEnvelope
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.sampling.stream import RowStream

_BLOCKS = 16
_BATCH = 256


def random_rows(config: RunConfig, proposal: Proposal, num_rows: int, seed: int) -> Dataset:
    """Draw `num_rows` proposals as they come, by the same sampler with p = q, on streams apart from the run's own.

    Of a pool, these are rows at random without replacement, in an order apart from the run's own.
    """
    return _random_sampler(config, proposal, num_rows, seed).sample(num_rows).dataset


def random_stream(config: RunConfig, proposal: Proposal, num_rows: int, seed: int) -> RowStream:
    """Return the rows of `random_rows` as a stream, which draws them while they are used."""
    return _random_sampler(config, proposal, num_rows, seed).row_stream(num_rows)


def _random_sampler(config: RunConfig, proposal: Proposal, num_rows: int, seed: int) -> RejectionSampler:
    sampling = config.sampling
    if isinstance(proposal, Pool):
        proposal = proposal.shuffled(Streams(seed, Stage.CONTROL))
    return RejectionSampler(
        proposal,
        ConstantRatio(),
        FixedEnvelope(0.0, num_pilot=64),
        seed=seed,
        chunk_size=min(sampling.chunk_rows, num_rows),
        pool=sampling.pool,
        stage=Stage.CONTROL,
    )


def weighted_rows(config: RunConfig, proposal: Proposal, ratio: Ratio, num_rows: int, seed: int) -> Dataset:
    """Draw the rows of `random_rows`, each weighted by its p/q over the largest; training divides by the mean weight.

    Raises StatisticalRefusal if all weights are 0.
    """
    shared = ray.put(ratio)
    rows = random_rows(config, proposal, num_rows, seed)
    share = Share.of_pool(config.sampling.pool)
    scored = rows.map_batches(
        partial(_score, ratio=shared), batch_format="pyarrow", num_cpus=share.cpus, num_gpus=share.gpus
    )
    scored = preserve_order(scored).materialize()
    largest = float(scored.max("log_ratio"))
    if largest == -math.inf:
        raise StatisticalRefusal(f"p/q is 0 for all {num_rows:,} proposals", "leave the arm `weighted` out")
    return preserve_order(scored.map_batches(partial(_weigh, largest=largest), batch_format="pyarrow"))


def _score(rows: pa.Table, ratio: ray.ObjectRef) -> pa.Table:
    limit_to_allocation()
    with located("ratio"):
        scores = log_ratios(ray.get(ratio), from_table(rows))
    return rows.set_column(rows.column_names.index("log_ratio"), "log_ratio", pa.array(scores.numpy()))


def _weigh(rows: pa.Table, largest: float) -> pa.Table:
    weight = np.exp(rows["log_ratio"].to_numpy() - largest).astype(np.float32)  # at most 1, also for an unnormalised p
    return rows.set_column(rows.column_names.index("weight"), "weight", pa.array(weight))


def oracle_rows(images: ImageSet, num_rows: int, seed: int) -> Dataset:
    """Return `num_rows` labelled target images in random order; drawn with replacement where there are fewer."""
    generator, count = Streams(seed, Stage.CONTROL).numpy(Purpose.ORACLE_ROWS), len(images)
    order = generator.permutation(count)[:num_rows] if count >= num_rows else generator.integers(count, size=num_rows)
    chosen = images.subset(torch.from_numpy(order))
    return _dataset(chosen.images, chosen.require_labels())


def pseudo_labelled_rows(
    model: nn.Module, target: ImageSet, confidence: float, num_rows: int, seed: int, share: Share
) -> Dataset:
    """Draw target images with replacement, each with the label that the model predicts.

    Images are drawn among those of which the model is most sure: all that it predicts with enough confidence, and at
    least a tenth of the images.

    Args:
        model: the classifier.
        target: the target images, whose labels are not used.
        confidence: the least probability of the predicted label.
        num_rows: images to draw.
        seed: of the draws.
        share: what the prediction reserves on the cluster.
    """
    probability, label = run_in_task(_predicted, model, target.images, share=share)
    order = probability.argsort(descending=True, stable=True)
    sure = order[: max(int((probability >= confidence).sum()), -(-len(order) // 10))]
    generator = Streams(seed, Stage.CONTROL).torch(Purpose.PSEUDO_LABELS)
    drawn = sure[torch.randint(len(sure), (num_rows,), generator=generator)]
    return _dataset(target.images[drawn], label[drawn])


def _predicted(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the highest probability, float [n], and its label, int64 [n]."""
    model = model.to(device()).eval()
    with torch.inference_mode():
        probability = torch.cat([model(batch.to(device())).softmax(1).cpu() for batch in images.split(_BATCH)])
    highest, label = probability.max(1)
    return highest.clone(), label.clone()  # inference tensors do not travel


def with_target_statistics(model: nn.Module, target: ImageSet, seed: int) -> nn.Module:
    """Replace the means and variances of the model's batch norm layers by those of the target images.

    Raises InputError if the model has no such layer.
    """
    require_batch_norm(model)
    order = torch.randperm(len(target), generator=Streams(seed, Stage.CONTROL).torch(Purpose.BATCH_NORM_ORDER))
    parts = order.tensor_split(-(-len(target) // _BATCH))  # alike in size: each counts the same
    batches = (take_rows(target.images, rows) for rows in parts)
    with seeded(Streams(seed, Stage.CONTROL), Purpose.BATCH_NORM_DROPOUT):  # update_bn leaves dropout on
        update_bn(batches, model.to(device()), device=device())
    return model.eval().cpu()


def _dataset(images: Tensor, labels: Tensor) -> Dataset:
    rows = to_table({"image": images, "label": labels})
    size = -(-rows.num_rows // _BLOCKS)
    return ray.data.from_arrow([rows.slice(start, size) for start in range(0, rows.num_rows, size)])
