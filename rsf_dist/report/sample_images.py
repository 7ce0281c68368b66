"""A few images of every kind, kept with the run. The report can then be drawn again without the run's inputs."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsf_dist.builders.inputs import Inputs
from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.evaluation.predictions import Predictions
from rsf_dist.proposals import Proposal
from rsf_dist.report.schema import ParameterQuantiles, finite
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.accepted import AcceptedSet, stored_rows
from rsf_dist.storage.run_store import RunStore

SAMPLES, PREDICTIONS = "figures/samples.npz", "figures/predictions.npz"
_SHOWN = 48
_PREDICTED = 16
_SHOWN_OF_ROUND = 12
_MEASURED = 500
_MEASURED_CHUNK = 1  # of Stage.PILOT
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Arrays = dict[str, NDArray]


def save(store: RunStore, proposal: Proposal, accepted: AcceptedSet, inputs: Inputs, seed: int) -> None:
    """Keep images of source, proposals, accepted rows and target, and the log ratios of all accepted rows.

    Args:
        store: the seed's directory.
        proposal: of the last round.
        accepted: its accepted rows.
        inputs: the source and target images.
        seed: of the proposals drawn.
    """
    drawn = proposal.sample(_SHOWN, Streams(seed, Stage.PILOT))
    rows = from_table(accepted.head(_SHOWN))
    arrays = {
        "source": _spread(inputs.source.images),
        "proposals": drawn["image"].cpu().numpy(),
        "accepted": rows["image"].numpy(),
        "accepted_label": rows["label"].numpy(),
        "target": _spread(inputs.target.images),
        "accepted_log_ratio": np.ascontiguousarray(accepted.ledger["log_ratio"]),
    }
    _write(store, SAMPLES, arrays)


def save_round(store: RunStore, number: int, proposal: Proposal, seed: int) -> dict[str, ParameterQuantiles]:
    """Keep a few accepted images of a stored round, and return quantiles of its columns of real numbers, by name."""
    drawn = to_cpu(proposal.sample(_MEASURED, Streams(seed, Stage.PILOT, number, _MEASURED_CHUNK)))
    rows = from_table(stored_rows(store, number))
    if "image" in rows:
        _write(store, round_samples(number), {"accepted": rows["image"][:_SHOWN_OF_ROUND].numpy()})
    names = [name for name, column in drawn.items() if column.ndim == 1 and column.is_floating_point()]
    return {
        name: ParameterQuantiles(proposed=_quantiles(drawn[name]), accepted=_quantiles(rows[name])) for name in names
    }


def round_samples(number: int) -> str:
    """Return the file, within the run's directory, of a round's images."""
    return f"figures/round-{number:03d}.npz"


def _quantiles(values: Tensor) -> list[float | None]:
    return finite([float(value) for value in np.quantile(values.double().numpy(), _QUANTILES)])


def save_predictions(store: RunStore, test: ImageSet, before: Predictions | None, after: Predictions) -> None:
    """Keep test images, evenly spread over the set, with their classes and the predictions before and after.

    Args:
        store: the seed's directory.
        test: the test images.
        before: predictions of the model before fine-tuning; None means that they were not made.
        after: predictions of the fine-tuned model.
    """
    index = torch.linspace(0, len(test) - 1, min(_PREDICTED, len(test))).long().numpy()
    before = before or after
    arrays = {
        "images": test.images[torch.from_numpy(index)].numpy(),
        "truth": after.truth[index],
        "before": before.predicted[index],
        "after": after.predicted[index],
    }
    _write(store, PREDICTIONS, arrays)


def load(store: RunStore, name: str) -> Arrays | None:
    """Return the arrays that were kept under this name, or None where they are missing or damaged."""
    if not store.exists(name):
        return None
    try:
        with np.load(io.BytesIO(store.read(name)), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):  # damaged: the report goes without this picture
        return None


def _spread(images: Tensor) -> NDArray:
    index = torch.linspace(0, len(images) - 1, min(_SHOWN, len(images))).long()
    return images[index].numpy()


def _write(store: RunStore, name: str, arrays: Arrays) -> None:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
    store.write(name, sink.getvalue())
