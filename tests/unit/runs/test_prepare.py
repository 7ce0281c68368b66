"""The lines that a run says before it starts."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_input.case import sound_run
from seed_runs import RecordingProgress

from rsf_dist.config.load import dump_config, filled, parse_config
from rsf_dist.config.model import ModelConfig
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.runs import pipeline, preparation


def test_weights_are_said_once_with_what_was_left_out(tmp_path: Path) -> None:
    state = NetworkSpec(ModelConfig(width=4), num_outputs=7, channels=1).build().network.state_dict()
    torch.save({"model": state}, tmp_path / "w.ckpt")
    raw = sound_run(tmp_path)
    raw["model"] |= {"weights": str(tmp_path / "w.ckpt")}
    for config, lines in ((raw, 1), (raw, 1), (sound_run(tmp_path), 0)):
        progress = RecordingProgress()
        preparation.prepare(parse_config(config), progress)
        said = [line for line in progress.lines if line.startswith("weights ")]
        assert len(said) == lines
        if lines:
            assert said[0] == (
                f"weights {tmp_path}/w.ckpt: 21 tensors taken from `model`; "
                "left out: 13.weight, 13.bias (another number of classes)"
            )


def photographs(folder: Path, **sections: object) -> dict[str, Any]:
    """A run of 40 images of 64 x 64 pixels that leaves to them what it can."""
    raw = sound_run(folder) | {"ratio": {"num_proposals": 50}, "envelope": {"kind": "budget", "acceptance": 0.5}}
    for seed, name in enumerate(("source", "target")):
        images = np.random.default_rng(seed).integers(256, size=(40, 64, 64), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=np.arange(40) % 2)
    del raw["proposal"]
    return raw | {"sampling": {"num_accepted": 8}} | sections


def described(raw: dict) -> list[str]:
    config = parse_config(raw)
    inputs = preparation.prepare(config)
    return list(preparation.description(filled(config, inputs.image_defaults), inputs))


def test_a_run_says_what_is_proposed_and_what_the_images_chose(tmp_path: Path) -> None:
    assert described(photographs(tmp_path)) == [
        "source: 40 grey images of 64 x 64 pixels, 2 classes of 20 images",
        "target: 40 grey images of 64 x 64 pixels",
        "proposals: the source images under rotation -0.2 to 0.2, scale 0.9 to 1.6, brightness 0.4 to 1.4, contrast "
        "0.6 to 1.4, translate_x -0.15 to 0.15, translate_y -0.15 to 0.15, noise 0 to 0.08",
        "chosen for images of 1 x 64 x 64, unless you name them: ratio.network={name: small_cnn, stride: 2}, "
        "sampling.chunk_size=4096",
    ]


def test_proposals_that_change_nothing_are_said_to(tmp_path: Path) -> None:
    raw = photographs(tmp_path, proposal={"parameters": {}})
    assert described(raw)[2] == "proposals: the source images unchanged (proposal.parameters varies them)"


def test_the_resolved_configuration_names_what_the_images_chose_and_a_resumed_run_keeps_it(tmp_path: Path) -> None:
    config, progress = parse_config(photographs(tmp_path)), RecordingProgress()
    with pipeline.open_run(config, progress) as (resolved, store, _):
        assert resolved.ratio.network.stride == 2
        store.write("config.yaml", dump_config(filled(config, resolved_by_an_older_rule())))
    with pipeline.open_run(config, progress) as (resolved, _, _):
        assert resolved.ratio.network.stride == 3
        assert resolved.sampling.chunk_size == 128


def resolved_by_an_older_rule() -> dict[str, Any]:
    return {"ratio.network": {"stride": 3}, "sampling.chunk_size": 128, "proposal.parameters": {}}
