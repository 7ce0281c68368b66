"""One seed of a run: its configuration, its images, its directory, and the ratios that it keeps there.

What is done with it, stage by stage, is in `rounds` (the sampling half) and `arms` (the training half). A stage is a
function of the configuration, the seed and what came before; what it has left in the directory is not done again, and
what was lost or damaged is made again and comes out the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import ray
from torch import nn

from rsf_dist.builders.components import build_proposal, build_task
from rsf_dist.builders.context import RatioContext, WarmStart
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.ratio import load_ratio, make_ratio
from rsf_dist.cluster.workers import limit_to_allocation
from rsf_dist.config.model import OptimizerConfig
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.run import RunConfig
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import RsfError, unwrapped
from rsf_dist.proposals import DefensiveProposal, Proposal
from rsf_dist.ratios import Ratio, ReweightedRatio
from rsf_dist.ratios.base import SavableRatio
from rsf_dist.report import report_json
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.storage.run_store import RunStore
from rsf_dist.tasks import Task
from rsf_dist.training.in_process import fit_in_process

PRETRAINED = "models/pretrained"


def ratio_folder(round: int) -> str:
    """Where a round's ratio is kept."""
    return f"rounds/{round:03d}/ratio"


def pilot_folder(round: int) -> str:
    """Where a round's pilot is kept."""
    return f"rounds/{round:03d}/pilot"


@dataclass(frozen=True)
class SeedRun:
    """One seed of a run.

    Args:
        config, inputs: of the run.
        store: the trial's own directory: the run's, or one within it.
        seed: the trial's.
        progress: who is told.
    """

    config: RunConfig
    inputs: Inputs
    store: RunStore
    seed: int
    progress: Progress
    _in_memory: dict[int, Ratio] = field(default_factory=dict, repr=False, compare=False)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announce a stage and record its seconds, also where it is interrupted."""
        self.progress.say(text)
        started = time.monotonic()
        try:
            yield
        finally:
            with suppress(RsfError):  # of a disk that is full; what ended the stage is to be told
                report_json.add_seconds(self.store, name, time.monotonic() - started)

    def one_shot(self) -> SeedRun:
        """The same without rounds, in a directory of its own within this one.

        A budget's acceptance is that of rounds from the proposal as configured: the last round's would keep nearly all.
        """
        rounds, envelope = self.config.rounds, self.config.envelope
        if rounds.num_rounds > 1:
            envelope = envelope.without_rounds(rounds.acceptance, rounds.num_pilot)
        config = self.config.model_copy(update={"rounds": RoundsConfig(), "envelope": envelope})
        return replace(self, config=config, store=self.store.at("one_shot"), _in_memory={})

    def proposal(self) -> Proposal:
        """Build the proposal as configured, which the first round samples from."""
        return build_proposal(self.config.proposal, self.inputs.source)

    def ratio(self, proposal: Proposal, round: int = 0) -> Ratio:
        """Return log p/q, `proposal` being the round's q; the ratio is made first where the seed does not keep it."""
        made_in, made_for = (round, proposal) if self.config.ratio.is_learned else (0, self.proposal())
        if made_in not in self._in_memory and not self.store.is_intact(ratio_folder(made_in)):
            self._make_ratio(made_for, made_in)
        return self.stored_ratio(proposal, round)

    def _make_ratio(self, proposal: Proposal, round: int) -> None:
        config = self.config.ratio
        context = self._ratio_context(proposal, round, warm_start=self._warm_start(round))
        with self.stage("ratio", f"making the {config.kind} ratio: {len(self.inputs.target):,} target images"):
            ratio = make_ratio(config, context)
            if isinstance(ratio, SavableRatio):
                self.store.commit_folder(ratio_folder(round), ratio.save)
            else:  # it cannot be read back, and may have been learned for long
                self.store.commit_folder(ratio_folder(round), lambda folder: None)
                self._in_memory[round] = ratio

    def stored_ratio(self, proposal: Proposal, round: int = 0) -> Ratio:
        """Return the ratio that the seed keeps. Raises InputError where there is none, or a damaged ratio.

        A ratio that is not learned belongs to the proposal as configured. Both densities bring it to the round's
        proposal.
        """
        if self.config.ratio.is_learned:
            return self._stored(round, proposal)
        ratio = self._stored(0, self.proposal())
        if round == 0:
            return ratio
        assert isinstance(proposal, DefensiveProposal)  # as rounds move it
        return ReweightedRatio(ratio, proposal)

    def _warm_start(self, round: int) -> WarmStart:
        steps = self.config.rounds.warm_start_steps
        if round == 0 or steps is None or not self.config.ratio.can_warm_start:
            return WarmStart()
        return WarmStart(self._stored(round - 1, self.proposal()), steps)

    def _stored(self, round: int, proposal: Proposal) -> Ratio:
        if round not in self._in_memory:
            context = self._ratio_context(proposal, round)
            load = partial(load_ratio, self.config.ratio, context)
            self._in_memory[round] = self.store.load_folder(ratio_folder(round), load)
        return self._in_memory[round]

    def _ratio_context(self, proposal: Proposal, round: int, warm_start: WarmStart | None = None) -> RatioContext:
        return RatioContext(
            inputs=self.inputs,
            proposal=proposal,
            seed=self.round_seed(round),
            split_seed=self.seed,
            checkpoints=self.store.path_for_ray("checkpoints"),
            warm_start=warm_start or WarmStart(),
        )

    def round_seed(self, round: int) -> int:
        """Of what is fitted in a round; the trial's own in the first."""
        return self.seed if round == 0 else int(Streams(self.seed, Stage.RATIO, round).numpy(purpose=9).integers(2**32))

    def starting_model(self) -> nn.Module:
        """With its configured weights, trained on the source images first where `fit_in_process` says so."""
        config, task = self.config, self.task()
        if config.pretrain is None:
            return task.build_model(self.seed)
        kept = self.store.find_folder(PRETRAINED, task.load)
        if kept is None:
            with self.stage("pretraining", "the model before fine-tuning"), unwrapped():
                made = ray.get(_pretrain.remote(task, self.inputs.source, config.pretrain, self.seed))
            self.store.commit_folder(PRETRAINED, lambda at: task.save(made, at))
            kept = self.store.load_folder(PRETRAINED, task.load)
        return kept

    def task(self) -> Task:
        """What is learned."""
        return build_task(self.config, self.inputs.source)


@ray.remote
def _pretrain(task: Task, source: ImageSet, config: OptimizerConfig, seed: int) -> nn.Module:
    limit_to_allocation()
    return fit_in_process(task, source, config, seed)
