"""The lines that a run says before it starts."""

from pathlib import Path

import torch
from bad_input.case import sound_run
from seed_runs import RecordingProgress

from rsf_dist.config.load import parse_config
from rsf_dist.config.model import ModelConfig
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.runs import pipeline


def test_weights_are_said_once_with_what_was_left_out(tmp_path: Path) -> None:
    state = NetworkSpec(ModelConfig(width=4), num_outputs=7, channels=1).build().network.state_dict()
    torch.save({"model": state}, tmp_path / "w.ckpt")
    raw = sound_run(tmp_path)
    raw["model"] |= {"weights": str(tmp_path / "w.ckpt")}
    for config, lines in ((raw, 1), (raw, 1), (sound_run(tmp_path), 0)):
        progress = RecordingProgress()
        pipeline.prepare(parse_config(config), progress)
        said = [line for line in progress.lines if line.startswith("weights ")]
        assert len(said) == lines
        if lines:
            assert said[0] == (
                f"weights {tmp_path}/w.ckpt: 21 tensors taken from `model`; "
                "left out: 13.weight, 13.bias (another number of classes)"
            )
