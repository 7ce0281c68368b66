"""Seed runs with stored rounds, for tests without a cluster."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from records import progress_of, result_of
from torch.distributions import Normal, Uniform

from rsf_dist.config.load import parse_config
from rsf_dist.data.arrow import to_table
from rsf_dist.data.batch import num_rows
from rsf_dist.data.images import ImageSet
from rsf_dist.proposals import AugmentProposal, DistributionProposal
from rsf_dist.ratios import DensityRatio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.classifier import evaluate_ratio
from rsf_dist.report import report_json
from rsf_dist.runs import rounds
from rsf_dist.runs.class_prior import ClassPriorDecision, class_prior_folder, stored_decision
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.accepted import describe_columns
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.report import Setting, summarise
from rsf_dist.storage.run_store import RunStore

CONFIG = {
    "output": "unused",
    "source": {"kind": "digits"},
    "target": {"kind": "digits"},
    "proposal": {"parameters": {"rotation": {"uniform": [-1.5, 1.5]}}},
    "sampling": {"num_accepted": 100},
    "model": {"width": 4},
}

SOURCE = ImageSet(
    torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(6) % 3,
    ("a", "b", "c"),
)


class RecordingProgress(Progress):
    """A progress that keeps the lines it is given."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


class Learned(DensityRatio):
    """A density ratio for a target turned by .8 ± .1, with the quality figures of a learned ratio."""

    def __init__(self, proposal, distance):
        super().__init__(Normal(0.8, 0.1), DistributionProposal(Uniform(-1.5, 1.5), column="rotation"), log_bound=4.0)
        spread = np.linspace(-1, 1, 50)
        quality = evaluate_ratio(spread + distance, spread - distance, "none")
        self.info = replace(self.info, quality=quality)


def seed_run_in(folder: Path, **sections) -> SeedRun:
    store = RunStore(folder)
    report_json.begin(store, seed=0)
    config = parse_config(CONFIG | sections)
    return SeedRun(
        config, SimpleNamespace(source=SOURCE, proposed_from=SOURCE, target=SOURCE), store, 0, RecordingProgress()
    )


def broad():
    return AugmentProposal(SOURCE, {"rotation": Uniform(-1.5, 1.5)})


def store_rows(store, number, rows, report):
    """Put a round's rows into the store, as the sampler leaves them."""
    table = to_table(rows)
    shard, result = store.write_shard(number, 0, table), result_of(report)
    store.commit_round(number, progress_of(shard, result=result, columns=describe_columns(table)))
    return SimpleNamespace(report=report, fingerprint=f"{number + 10:064x}")


def report_round(seed_run, number, last, distance=0.5, n=1_500):
    """Draw a round in this process, store it, and add it to the report, as rounds do."""
    proposal = broad()
    ratio = Learned(proposal, distance)
    chunk = ChunkWork(proposal, ratio, 1.5, n, seed=0, round=number)(0)
    report = summarise(
        Setting(1.5, "given", normalised=True),
        chunk.statistics,
        chunk.rows["log_ratio"].numpy(),
        chunk.rows["accept_key"].numpy(),
        num_proposed=n,
        num_accepted=num_rows(chunk.rows),
        num_duplicates=0,
        stopped=False,
    )
    accepted = store_rows(seed_run.store, number, chunk.rows, report)
    decision = (stored_decision(seed_run, number) or ClassPriorDecision()) if last else None
    rounds._report_round(seed_run, number, proposal, ratio, accepted, decision=decision)
    return accepted


ESTIMATE = ClassPrior(np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.4, 0.6]), "em")
COLLAPSED = ClassPrior(np.array([0.98, 0.01, 0.01]), np.zeros(3), np.ones(3), "em")

SMOOTHED = 0.05 / 3 + 0.95 * ESTIMATE.prior
"""The class prior to propose: .05 of a third, and .95 of the estimate."""

MOVED = ClassPriorDecision(ESTIMATE, tried=True, prior=SMOOTHED)


def store_decision(seed_run, number, decision=MOVED):
    seed_run.store.commit_folder(class_prior_folder(number), decision.save)


def decision_in(seed_run, number):
    decision = stored_decision(seed_run, number)
    return decision.estimate and decision.estimate.to_json(), decision.reason_to_keep


def round_proposal(seed_run, number):
    """The proposal that a round's stored sampler has."""
    decision, moved = stored_decision(seed_run, number), rounds.moved_proposal(seed_run, number)
    return moved if decision is None else decision.proposal(moved)
