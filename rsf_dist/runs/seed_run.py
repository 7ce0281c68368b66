"""One seed of a run: its configuration, its images, its directory, and the ratios that are kept there.

The stages are in `rounds` (the sampling half) and `arms` (the training half). A stage is a function of the
configuration, the seed and the stages before. A result that is intact in the directory is not made again. A result that
is lost or damaged is made again and comes out the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from rsf_dist.builders.components import build_proposal, build_task
from rsf_dist.builders.context import RatioContext, WarmStart
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.ratio import load_ratio, make_ratio
from rsf_dist.cluster.capacity import check_worker
from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.model import OptimizerConfig
from rsf_dist.config.resources import Share
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.run import RunConfig
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import RsfError, located
from rsf_dist.proposals import DefensiveProposal, Pool, Proposal
from rsf_dist.ratios import Ratio, ReweightedRatio
from rsf_dist.ratios.base import SavableRatio
from rsf_dist.report import report_json
from rsf_dist.report.report_json import ONE_SHOT
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.rng import Purpose, Stage, Streams
from rsf_dist.storage.run_store import RunStore
from rsf_dist.tasks import Task
from rsf_dist.training.in_process import fit_in_process

PRETRAINED = "models/pretrained"


def ratio_folder(round: int) -> str:
    """Return the folder of a round's ratio."""
    return f"rounds/{round:03d}/ratio"


def pilot_folder(round: int) -> str:
    """Return the folder of a round's pilot."""
    return f"rounds/{round:03d}/pilot"


def accepted_folder(round: int) -> str:
    """Return the folder of a round's accepted rows."""
    return f"rounds/{round:03d}/accepted"


def without_rounds(config: RunConfig) -> RunConfig:
    """Return the configuration of one-shot rejection beside a run's rounds.

    A budget takes the acceptance of the rounds. The last round's acceptance suits a proposal that was moved, and would
    keep nearly all of the proposal as configured.
    """
    rounds, envelope = config.rounds, config.envelope
    if rounds.num_rounds > 1:
        envelope = envelope.without_rounds(rounds.acceptance, rounds.num_pilot)
    return config.model_copy(update={"rounds": RoundsConfig(), "envelope": envelope})


@dataclass(frozen=True)
class SeedRun:
    """One seed of a run.

    Args:
        config: the run's configuration.
        inputs: the run's images.
        store: the seed's own directory: the run's, or one within it.
        seed: the seed.
        progress: takes the messages to the user.
    """

    config: RunConfig
    inputs: Inputs
    store: RunStore
    seed: int
    progress: Progress
    _in_memory: dict[int, Ratio] = field(default_factory=dict, repr=False, compare=False)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Announce a stage and record its seconds, even if it is interrupted."""
        self.progress.say(text)
        started = time.monotonic()
        try:
            yield
        finally:
            with suppress(RsfError):  # a full disk must not hide the error that ended the stage
                report_json.add_seconds(self.store, name, time.monotonic() - started)

    def one_shot(self) -> SeedRun:
        """Return the same seed without rounds, in a directory of its own within this one."""
        return replace(self, config=without_rounds(self.config), store=self.store.at(ONE_SHOT), _in_memory={})

    def proposal(self) -> Proposal:
        """Build the proposal as configured, which the first round samples from. A pool is in the seed's own order."""
        with located("proposal"):
            proposal = build_proposal(self.config.proposal, self.inputs.proposed_from)
        return proposal.shuffled(Streams(self.seed)) if isinstance(proposal, Pool) else proposal

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
            with located("ratio"):
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

            def load(folder: Path) -> Ratio:
                with located("ratio"):
                    return load_ratio(self.config.ratio, context, folder)

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
        """Return the seed of every fit in a round; the first round has the seed itself."""
        return self.seed if round == 0 else Streams(self.seed, Stage.RATIO, round).integer(2**32, Purpose.ROUND_SEED)

    def starting_model(self) -> nn.Module:
        """Return the model before fine-tuning, trained on the source images first where `pretrain` says so."""
        config, task = self.config, self.task()
        if config.pretrain is None:
            with located("model"):
                return task.build_model(self.seed)
        model = self.store.find_folder(PRETRAINED, task.load)
        if model is None:
            with self.stage("pretraining", "the model before fine-tuning"):
                with located("training"):
                    check_worker(config.training)
                share = Share.of_training(config.training)
                made = run_in_task(_pretrain, task, self.inputs.source, config.pretrain, self.seed, share=share)
            self.store.commit_folder(PRETRAINED, lambda folder: task.save(made, folder))
            model = self.store.load_folder(PRETRAINED, task.load)
        return model

    def task(self) -> Task:
        """Build the task."""
        with located("task"):
            return build_task(self.config.task, self.config.model, self.inputs.source)


def _pretrain(task: Task, source: ImageSet, config: OptimizerConfig, seed: int) -> nn.Module:
    """Train a new model of the task on the source images."""
    with located("model"):
        initial = task.build_model(seed)
    with located("pretrain"):
        return fit_in_process(task, source, config, seed, initial)
