"""A pool from the file to its proposal: which images it takes, and how much of them a run may ask for."""

import numpy as np
import pytest
import torch
from bad_input.case import changed, sound_run

from rsf_dist.builders.components import build_proposal
from rsf_dist.builders.context import RatioContext
from rsf_dist.builders.inputs import load_inputs
from rsf_dist.builders.ratio import make_ratio
from rsf_dist.config.load import parse_config
from rsf_dist.errors import InputError
from rsf_dist.inspection.findings import image_findings
from rsf_dist.proposals import Pool, PoolProposal
from rsf_dist.ratios.base import log_ratios
from rsf_dist.runs.pipeline import changed_inputs
from rsf_dist.runs.preparation import prepare
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.rng import Streams
from rsf_dist.storage.run_store import RunStore

POOL = {"proposal": {"kind": "dataset"}}


@pytest.fixture
def run(tmp_path):
    """Return the configuration of a run that takes 40 source images as its pool, or 30 other ones."""
    raw = sound_run(tmp_path) | POOL
    images = np.random.default_rng(1).integers(256, size=(30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "pool.npz", images=images, labels=np.arange(30) % 2)

    def with_changes(own=False, **changes):
        images = {"kind": "npz", "root": str(tmp_path / "pool.npz")}
        given = changed(raw, {name.replace("__", "."): value for name, value in changes.items()})
        return given | ({"proposal": {"kind": "dataset", "images": images}} if own else {})

    return with_changes


def refusal(raw) -> str:
    with pytest.raises(InputError) as caught:
        prepare(parse_config(raw))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_pool_is_the_source_unless_it_has_images_of_its_own(run):
    of_source, own = (load_inputs(parse_config(run(own))) for own in (False, True))
    assert of_source.pool is None
    assert of_source.proposed_from is of_source.source
    assert len(own.proposed_from) == 30
    assert "pool" not in of_source.digests()
    assert own.digests().keys() == {"source", "target", "pool"}
    assert "pool: 30 grey images of 8 x 8 pixels, 2 classes of 15 images" in own.summaries()


def test_a_seed_reads_it_in_its_own_order(run, tmp_path):
    config = parse_config(run(own=True))
    inputs = prepare(config)

    def order(seed):
        proposal = SeedRun(config, inputs, RunStore(tmp_path), seed, Progress()).proposal()
        assert isinstance(proposal, Pool)
        return proposal.take(0, 30)["base_index"].tolist()

    assert sorted(order(0)) == list(range(30))
    assert order(0) == order(0)
    assert order(0) != order(1)
    rows = PoolProposal(inputs.pool).take(4, 1)
    assert torch.equal(rows["image"], inputs.pool.images[4:5])


def test_a_pool_that_changed_is_another_runs(run, tmp_path):
    inputs, store = load_inputs(parse_config(run(own=True))), RunStore(tmp_path / "run")
    store.commit_folder("inputs", lambda folder: (folder / "digests.json").write_text(f'{{"pool": "{"0" * 64}"}}'))
    assert "pool" in changed_inputs(store, inputs)


@pytest.mark.parametrize("keys", [{"num_accepted": 30}, {"top_k": 29}])
def test_as_many_rows_as_there_are_can_be_asked_for(run, keys):
    prepare(parse_config(run(own=True, sampling=keys)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"sampling": {"num_accepted": 31}},
            "sampling.num_accepted=31: the pool has 30 rows, and each is read once; lower it to 30 or less",
        ),
        (
            {"ratio": {"kind": "density", "parameters": {"rotation": {"uniform": [0, 1]}}}},
            "ratio.parameters=rotation: the proposal draws no such parameter; use a ratio of kind classifier, reward",
        ),
        (
            {"sampling": {"top_k": 30}},
            "sampling.top_k=30: the pool has 30 rows, and each is read once; lower it below 30",
        ),
        (
            {"ratio": {"num_proposals": 60, "network": {"width": 4}}, "envelope": {"kind": "pilot"}},
            "ratio.num_proposals=60: the pool has 30 rows, and held-out rows must not be among the fitted ones; "
            "lower it to 30 or less",
        ),
        (
            {
                "ratio": {
                    "kind": "product",
                    "factors": [
                        {"kind": "verifier", "passes": "ratios_of_mine:bright"},
                        {"kind": "label_shift", "num_proposals": 70},
                    ],
                },
                "envelope": {"kind": "pilot"},
            },
            "ratio.factors.1.num_proposals=70: the pool has 30 rows",
        ),
    ],
)
def test_more_than_the_pool_has_is_refused_before_sampling(run, changes, told):
    assert refusal(run(own=True, **changes)).startswith(told)


def test_a_pool_without_labels_or_of_other_classes_or_sizes_is_refused(run, tmp_path):
    images = np.zeros((30, 8, 8), np.uint8)
    for arrays, told in [
        ({"images": images}, "proposal.images=unlabelled images: needs labels"),
        ({"images": images, "labels": np.arange(30) % 3}, "proposal.images=2: not among the source's classes, 0, 1"),
        ({"images": np.zeros((30, 9, 9), np.uint8), "labels": np.arange(30) % 2}, "proposal.images=(1, 9, 9): images"),
    ]:
        np.savez(tmp_path / "pool.npz", **arrays)
        assert refusal(run(own=True)).startswith(told)
    (tmp_path / "pool.npz").unlink()
    assert refusal(run(own=True)).startswith("proposal.images.root=")


@pytest.mark.parametrize(
    "ratio",
    [
        {"kind": "verifier", "passes": "of_ages:grown_up", "columns": ["age"]},
        {"kind": "reward", "score": "of_ages:older", "columns": ["age"], "max_score": 3.0},
        {"kind": "custom", "factory": "of_ages:Ages"},
    ],
)
def test_ratios_by_import_path_see_the_pools_attributes(ratio, run, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "of_ages.py").write_text(OF_AGES)
    ages = 20 + np.arange(30)
    np.savez(tmp_path / "pool.npz", images=np.zeros((30, 8, 8), np.uint8), labels=ages % 2, age=ages)
    raw = run(own=True, ratio=ratio, code_folder=str(tmp_path / "code"), envelope={"kind": "pilot"})
    assert "age" in refusal(raw)  # the negative control: nobody asked for the column
    raw["proposal"]["images"]["attributes"] = ["age"]
    config = parse_config(raw)
    inputs = prepare(config)
    proposal = build_proposal(config.proposal, inputs.proposed_from)
    made = make_ratio(config.ratio, RatioContext(inputs, proposal, 0))
    found = log_ratios(made, proposal.take(0, 30))
    assert found[-1] > found[0]


def test_a_pool_from_a_factory_of_ones_own_is_read_once_too(run, tmp_path):
    (tmp_path / "code").mkdir()
    own = {"proposal": {"kind": "custom", "factory": "my_pool:make"}, "code_folder": str(tmp_path / "code")}
    (tmp_path / "code" / "my_pool.py").write_text(
        "from rsf_dist.proposals import PoolProposal\n\ndef make(source):\n    return PoolProposal(source)\n"
    )
    prepare(parse_config(run() | own | {"ratio": SHIFT, "sampling": {"num_accepted": 40}}))
    told = refusal(run() | own | {"ratio": SHIFT, "sampling": {"num_accepted": 41}})
    assert told.startswith("sampling.num_accepted=41: the pool has 40 rows")
    told = refusal(run() | own | {"ratio": SHIFT, "sampling": {"num_accepted": 4, "mode": "stream"}})
    assert told.startswith("sampling.mode=stream: draws without end, and the pool ends after 40 rows")


SHIFT = {"kind": "label_shift", "target_prior": [0.5, 0.5]}

OF_AGES = """
import torch
import rsf_dist as rsf
from torch.distributions import Normal

def grown_up(batch):
    return batch["age"] >= 30

def older(batch):
    return batch["age"] / 50

class Ages:
    log_bound = None

    def __init__(self, target, proposal, seed):
        self.ratio = rsf.DensityRatio(Normal(45.0, 5.0), rsf.DistributionProposal(Normal(35.0, 9.0), column="age"))

    def log_ratio(self, batch):
        return self.ratio.log_ratio(batch)
"""


def test_a_class_that_the_pool_lacks_is_told(run, tmp_path):
    np.savez(tmp_path / "pool.npz", images=np.zeros((30, 8, 8), np.uint8), labels=np.zeros(30, int))
    lines = [finding.line() for finding in image_findings(load_inputs(parse_config(run(own=True))))]
    assert "proposal.images: no image of 1: 1 of 2 classes are not trained" in lines


def test_label_shift_knows_the_pools_own_class_prior(run):
    """A target of class 1 alone: half of the pool passes, and nothing is learned or drawn."""
    config = parse_config(run(ratio={"kind": "label_shift", "target_prior": [0, 1]}, sampling={"num_accepted": 20}))
    inputs = prepare(config)
    assert build_proposal(config.proposal, inputs.source).class_prior.tolist() == [0.5, 0.5]
    assert config.envelope.kind == "certified"


def test_a_kind_that_says_it_is_a_pool_must_be_one(run, monkeypatch):
    class Endless:
        def sample(self, n, rng: Streams):
            return {"image": torch.zeros(n, 1, 8, 8, dtype=torch.uint8), "label": torch.zeros(n, dtype=torch.int64)}

    monkeypatch.setattr("rsf_dist.builders.preflight.build_proposal", lambda *_: Endless())
    assert refusal(run()).startswith("proposal.kind=dataset: its proposal is no pool that is read once; give")
