"""The part of a run before anything starts: images are read, and what cannot work is refused.

The cluster and the disk are asked whether they can hold the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import yaml

from rsf_dist.builders.inputs import Inputs, load_inputs
from rsf_dist.builders.preflight import preflight
from rsf_dist.cluster.capacity import check_pool, check_ratio, check_training
from rsf_dist.cluster.shared_storage import require_shared
from rsf_dist.cluster.workers import ship_code
from rsf_dist.config.load import filled
from rsf_dist.config.run import RunConfig
from rsf_dist.data.packing import Packing
from rsf_dist.errors import located
from rsf_dist.inspection.findings import run_findings
from rsf_dist.models import weights
from rsf_dist.runs.arms import arms, training_bytes
from rsf_dist.runtime import user_code
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.run_store import RunStore

_ROW_BYTES = 100
"""Bytes of a row's parameters and bookkeeping, beside its image."""


def prepare(config: RunConfig, progress: Progress | None = None, packing: Packing | None = None) -> Inputs:
    """Read the images and try each part of the configuration once, so that mistakes are refused before anything starts.

    Each import path of the configuration is shown with the file that it was loaded from, and each file of weights with
    what was taken from it.

    Args:
        config: the run's configuration.
        progress: receiver of messages.
        packing: finds and makes packed image sets. None means that all are read into memory.

    Raises:
        InputError: an image set or another part of the configuration does not work.
    """
    progress = progress or Progress()
    if config.code_folder is not None:
        user_code.allow_folder(config.code_folder)
    user_code.LOADED.clear()
    weights.TAKEN.clear()
    inputs = load_inputs(config, packing)
    config = filled(config, inputs.image_defaults)
    for finding in run_findings(config, inputs):
        progress.say(finding.line())
    preflight(config, inputs)
    for path, file in user_code.LOADED.items():
        progress.say(f"using {path} from {file}")
    for line in weights.TAKEN:
        progress.say(line)
    if config.code_folder is not None:
        ship_code(config.code_folder)
    return inputs


def description(config: RunConfig, inputs: Inputs) -> Iterator[str]:
    """Yield what the image sets hold, what is proposed, and what the images' size chose of keys that were left open.

    Args:
        config: the resolved configuration.
        inputs: its image sets.
    """
    yield from inputs.summaries()
    yield f"proposals: {config.proposal.summary}"
    channels, height, width = inputs.source.images.shape[1:]
    chosen = ", ".join(
        f"{key}={_flow(value)}" for key, value in inputs.image_defaults.items() if not key.startswith("proposal.")
    )
    if chosen:
        yield f"chosen for images of {channels} x {height} x {width}, unless you name them: {chosen}"


def _flow(value: object) -> str:
    """Return a value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).partition("\n...")[0].strip()


def check_cluster(config: RunConfig, sampling: bool, training: bool) -> None:
    """Refuse requests that the cluster cannot hold, and folders that not all its nodes see. Raises InputError."""
    pool_beside = config.sampling.pool if config.sampling.mode == "stream" else None
    if sampling:
        with located("ratio"):
            check_ratio(config.ratio)
        rounds = config.rounds
        if rounds.num_rounds > 1 and rounds.class_prior is not None and config.ratio.leaves_class_prior_open:
            with located("rounds.class_prior"):
                check_ratio(rounds.class_prior)
        with located("sampling.pool"):
            check_pool(config.sampling.pool)
    nodes_come_later = sampling and config.training.wait_seconds  # asked for now, they would idle until then
    if training and not nodes_come_later:
        with located("training"):
            check_training(config.training, pool_beside)
    require_shared(RunStore(config.output).uri, "output")
    if config.code_folder is not None:
        require_shared(config.code_folder, "code_folder")


def forecast_bytes(config: RunConfig, inputs: Inputs, training: bool) -> int:
    """Return the bytes that a run may take on disk: all rows, uncompressed, and the models with their checkpoints."""
    rounds, num_accepted = config.rounds, config.sampling.num_accepted
    num_rows = num_accepted + (rounds.num_rounds - 1) * rounds.num_accepted
    if training and config.own_arm != "one_shot" and "one_shot" in arms(config):
        num_rows += num_accepted
    model_bytes = training_bytes(config, inputs) if training else 0
    row_bytes = inputs.source.images[0].nbytes + _ROW_BYTES
    return config.num_seeds * (num_rows * row_bytes + model_bytes)
