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
from pathlib import Path
from torch import nn
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.components import build_proposal, build_task
from rsf_dist.config.envelope import BudgetEnvelopeConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, ProductRatioConfig
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import RsfError
from rsf_dist.builders.classifier_fit import WarmStart
from rsf_dist.config.ratio import is_learned
from rsf_dist.builders.ratio import make_ratio
from rsf_dist.training.in_process import fit_in_process
from rsf_dist.runtime.progress import Progress
from rsf_dist.proposals import DefensiveProposal, Proposal
from rsf_dist.ratios import ReweightedRatio, Ratio
from rsf_dist.report import report_json
from rsf_dist.cluster.capacity import check_worker
from rsf_dist.cluster.workers import Share, run_in_task
from rsf_dist.runtime.rng import Purpose, Stage, Streams
from rsf_dist.storage.run_store import RunStore
from rsf_dist.tasks import Task



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
    _at_hand: dict[int, Ratio] = field(default_factory=dict, repr=False, compare=False)

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
        if isinstance(envelope, BudgetEnvelopeConfig) and rounds.num_rounds > 1:
            num_pilot = max(envelope.num_pilot, rounds.num_pilot)
            envelope = BudgetEnvelopeConfig(kind="budget", acceptance=rounds.acceptance, num_pilot=num_pilot)
        config = self.config.model_copy(update={"rounds": RoundsConfig(), "envelope": envelope})
        return replace(self, config=config, store=self.store.at("one_shot"), _at_hand={})

    def proposal(self) -> Proposal:
        """Build the proposal as configured, which the first round samples from."""
        return build_proposal(self.config.proposal, self.inputs.source)

    def ratio(self, proposal: Proposal, round: int = 0) -> Ratio:
        """log p/q, `proposal` being the round's q: as the trial keeps it, made first where it does not."""
        made_in, broad = (round, proposal) if is_learned(self.config.ratio) else (0, self.proposal())
        folder = ratio_folder(made_in)
        if made_in in self._at_hand or self.store.is_intact(folder):
            return self.stored_ratio(proposal, round)
        config, checkpoints = self.config.ratio, self.store.path_for_ray("checkpoints")
        before = self._before(made_in)
        with self.stage("ratio", f"making the {config.kind} ratio: {len(self.inputs.target):,} target images"):
            made = make_ratio(
                config,
                self.inputs,
                broad,
                self.round_seed(made_in),
                checkpoints,
                before=before,
                split_seed=self.seed,
            )
            save = getattr(made, "save", None)
            self.store.commit_folder(folder, save or (lambda folder: None))
        if save is None:  # it cannot be read back, and what makes it may have learned for long
            self._at_hand[made_in] = made
        return self.stored_ratio(proposal, round)

    def stored_ratio(self, proposal: Proposal, round: int = 0) -> Ratio:
        """The ratio that the trial keeps. Raises InputError where there is none, or a damaged one.

        One that is not learned is that of the proposal as configured, brought to the round's by both densities.
        """
        if is_learned(self.config.ratio):
            return self._kept(round, proposal)
        ratio = self._kept(0, self.proposal())
        if round == 0:
            return ratio
        assert isinstance(proposal, DefensiveProposal)  # as rounds move it
        return ReweightedRatio(ratio, proposal)

    def _before(self, round: int) -> WarmStart | None:
        """What a round's classifier goes on from."""
        steps = self.config.rounds.warm_start_steps
        if round == 0 or steps is None or not isinstance(self.config.ratio, ClassifierRatioConfig | ProductRatioConfig):
            return None
        return WarmStart(self._kept(round - 1), steps)

    def _kept(self, round: int, proposal: Proposal | None = None) -> Ratio:
        proposal = proposal or self.proposal()
        if round not in self._at_hand:
            self._at_hand[round] = self.store.load_folder(ratio_folder(round), partial(self._ratio_in, proposal, round))
        return self._at_hand[round]

    def _ratio_in(self, proposal: Proposal, round: int, folder: Path) -> Ratio:
        return make_ratio(self.config.ratio, self.inputs, proposal, self.round_seed(round), saved=folder)

    def round_seed(self, round: int) -> int:
        """Of what is fitted in a round; the trial's own in the first."""
        return self.seed if round == 0 else Streams(self.seed, Stage.RATIO, round).integer(2**32, Purpose.ROUND_SEED)

    def starting_model(self) -> nn.Module:
        """With its configured weights, trained on the source images first where `fit_in_process` says so."""
        config, task = self.config, self.task()
        if config.pretrain is None:
            return task.build_model(self.seed)
        kept = self.store.find_folder(PRETRAINED, task.load)
        if kept is None:
            with self.stage("pretraining", "the model before fine-tuning"):
                check_worker(config.training)
                share = Share.of_training(config.training)
                made = run_in_task(fit_in_process, task, self.inputs.source, config.pretrain, self.seed, share=share)
            self.store.commit_folder(PRETRAINED, lambda at: task.save(made, at))
            kept = self.store.load_folder(PRETRAINED, task.load)
        return kept

    def task(self) -> Task:
        """What is learned."""
        return build_task(self.config, self.inputs.source)
