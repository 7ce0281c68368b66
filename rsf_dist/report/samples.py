"""A few images of every kind, kept with the run so that its report can be drawn again without its inputs."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsf_dist.accepted import AcceptedSet
from rsf_dist.batch import from_table
from rsf_dist.build import Inputs
from rsf_dist.evaluation import Verdict
from rsf_dist.images import ImageSet
from rsf_dist.proposals import Proposal
from rsf_dist.rng import Stage, Streams
from rsf_dist.store import RunStore

SAMPLES, PREDICTIONS = "figures/samples.npz", "figures/predictions.npz"
_SHOWN = 48
_PREDICTED = 16

Arrays = dict[str, NDArray]


def save(store: RunStore, proposal: Proposal, accepted: AcceptedSet, inputs: Inputs, seed: int) -> None:
    """Images of proposals, accepted rows and target, uint8 [n, c, h, w], and the log ratios of all accepted rows."""
    drawn = proposal.sample(_SHOWN, Streams(seed, Stage.PILOT))
    rows = from_table(accepted.head(_SHOWN))
    arrays = {
        "source": _spread(inputs.source.images),
        "proposals": drawn["image"].numpy(),
        "accepted": rows["image"].numpy(),
        "accepted_label": rows["label"].numpy(),
        "target": _spread(inputs.target.images),
        "accepted_log_ratio": np.ascontiguousarray(accepted.ledger["log_ratio"]),
    }
    _write(store, SAMPLES, arrays)


def save_predictions(store: RunStore, test: ImageSet, verdicts: dict[str, Verdict]) -> None:
    """Test images with their truth and what the model said before and after; evenly spread over the set."""
    index = torch.linspace(0, len(test) - 1, min(_PREDICTED, len(test))).long().numpy()
    before = verdicts.get("pretrained", verdicts["one_shot"])
    arrays = {
        "images": test.images[torch.from_numpy(index)].numpy(),
        "truth": before.truth[index],
        "before": before.predicted[index],
        "after": verdicts["one_shot"].predicted[index],
    }
    _write(store, PREDICTIONS, arrays)


def load(store: RunStore, name: str) -> Arrays | None:
    """What was saved under `name`, or None."""
    if not store.exists(name):
        return None
    try:
        with np.load(io.BytesIO(store.read(name)), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):  # damaged: a picture less
        return None


def _spread(images: Tensor) -> NDArray:
    index = torch.linspace(0, len(images) - 1, min(_SHOWN, len(images))).long()
    return images[index].numpy()


def _write(store: RunStore, name: str, arrays: Arrays) -> None:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
    store.write(name, sink.getvalue())
