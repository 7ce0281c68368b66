"""Every kind of ratio, envelope and user class that a configuration can name, through the pipeline's first half."""

import json
from pathlib import Path

import pytest

from rsf_dist.config.load import parse_config
from rsf_dist.report.schema import RoundEntry
from rsf_dist.runs import pipeline

pytestmark = pytest.mark.ray

CLASSIFIER = {"network": {"width": 4}, "optimizer": {"steps": 30, "batch_size": 64}, "num_proposals": 1000}
MINE = '''
import torch
import rsf_dist as rsf

def bright(batch, least):
    return batch["image"].float().mean(dim=(1, 2, 3)) > least

def near(batch):
    return -(batch["turn"] - 1.0).abs()

def ratio(target, proposal, seed, beta):
    return rsf.RewardRatio(near, beta=beta, max_score=0.0)

def envelope(log_m):
    return rsf.FixedEnvelope(log_m)

def task(classes, model, channels):
    return rsf.ClassificationTask(classes, model, channels)

class Turned:
    """Source images turned by quarters."""

    def __init__(self, source):
        self.source = source

    def sample(self, n, rng):
        generator = rng.torch()
        index = torch.randint(len(self.source), (n,), generator=generator)
        turn = torch.randint(4, (n,), generator=generator)
        images = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(self.source.images[index], turn)])
        return {"image": images, "label": self.source.labels[index], "turn": turn.float()}
'''


def sampled(raw: dict, **changes) -> RoundEntry:
    """The round's record, of a run that only samples."""
    return pipeline.sample(parse_config(raw | changes)).report.rounds[0]


def test_label_shift_estimated_from_unlabelled_images(small_run: dict) -> None:
    """The target domain is the source with class prior (3, 1, 1, 2, 1, 2, 4, 1, 1, 2)/18, turned; here none turns."""
    helper = {"network": {"width": 8}, "optimizer": {"steps": 200, "batch_size": 64}, "num_proposals": 3000}
    raw = small_run | {"proposal": {}, "target": small_run["source"]}  # no shift at all: the prior is the source's
    found = sampled(raw, ratio={"kind": "label_shift", "method": "em", **helper}, envelope={"kind": "certified"})
    sampling = found.sampling
    assert found.ratio.kind == "LabelShiftRatio"
    assert sampling.log_m_source == "bound of the ratio"
    # equal priors: M is near 1, and so is the acceptance, as (1 - eps)/M says
    assert sampling.acceptance_rate > 0.7
    low, high = sampling.acceptance_interval
    assert low - 0.05 < sampling.acceptance_predicted < high + 0.05
    stored = json.loads((Path(raw["output"]) / "rounds/000/ratio/ratio.json").read_text())
    assert stored["estimate"]["method"] == "em"
    assert sum(stored["target_prior"]) == pytest.approx(1)


def test_user_classes_by_import_path(small_run: dict, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine_by_path.py").write_text(MINE)
    found = pipeline.run(
        parse_config(
            small_run
            | {
                "code_folder": str(tmp_path / "code"),
                "proposal": {"kind": "custom", "factory": "mine_by_path:Turned"},
                "ratio": {
                    "kind": "product",
                    "factors": [
                        {"kind": "verifier", "passes": "mine_by_path:bright", "options": {"least": 70}},
                        {"kind": "custom", "factory": "mine_by_path:ratio", "options": {"beta": 0.5}},
                    ],
                },
                "envelope": {"kind": "custom", "factory": "mine_by_path:envelope", "options": {"log_m": 0.0}},
                "task": {"kind": "custom", "factory": "mine_by_path:task"},
            }
        )
    ).report
    sampling = found.rounds[0].sampling
    assert sampling.num_accepted == 256
    assert sampling.num_screened_out > 0  # dim images were not shown to the second factor
    assert found.evaluation.arms["one_shot"]


def test_isotonic_ensemble_under_a_growing_envelope(small_run: dict) -> None:
    ratio = CLASSIFIER | {"calibration": "isotonic", "ensemble": 2}
    found = sampled(small_run, ratio=ratio, envelope={"kind": "adaptive", "num_pilot": 500})
    bound = found.ratio.log_bound
    assert found.ratio.quality.calibration.startswith("isotonic")
    assert found.sampling.log_m <= bound + 1e-9
    assert found.sampling.num_capped == 0
    assert found.two_sample.moved is None
