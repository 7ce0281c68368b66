"""A seed run: its seeds, the ratios that it keeps, and one-shot rejection beside it."""

import pytest
import torch
from seed_runs import broad, round_proposal, seed_run_in

from rsf_dist.builders.context import WarmStart
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.data.batch import to_cpu
from rsf_dist.proposals import DefensiveProposal
from rsf_dist.ratios import ConstantRatio, DensityRatio, ReweightedRatio
from rsf_dist.runs import rounds
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.rng import Streams


@pytest.mark.parametrize(
    ("number", "sections", "steps"),
    [
        (0, {"rounds": 3}, None),
        (2, {"rounds": 3}, RoundsConfig().warm_start_steps),
        (2, {"rounds": {"num_rounds": 3, "warm_start_steps": 7}}, 7),
        (2, {"rounds": {"num_rounds": 3, "warm_start_steps": None}}, None),
        (2, {"rounds": 3, "ratio": {"kind": "custom", "factory": "mine:ratio"}}, None),
    ],
)
def test_a_rounds_ratio_goes_on_from_the_round_before(number, sections, steps, tmp_path, monkeypatch):
    kept, before = [], ConstantRatio()

    def earlier(seed_run, number, proposal=None):
        kept.append(number)
        return before

    monkeypatch.setattr(SeedRun, "_stored", earlier)
    start = seed_run_in(tmp_path, **sections)._warm_start(number)
    assert start == (WarmStart() if steps is None else WarmStart(before, steps))
    assert kept == ([] if steps is None else [number - 1])


def test_without_rounds_a_mixture_of_the_users_own_is_no_proposal_that_moved(tmp_path, monkeypatch):
    """Its ratio is of itself, whatever it is a mixture of."""
    mixture = DefensiveProposal(broad(), broad().with_class_prior([0.8, 0.1, 0.1]), share=0.3)
    known = ConstantRatio()
    monkeypatch.setattr(SeedRun, "_stored", lambda seed_run, number, proposal: known)
    seed_run = seed_run_in(tmp_path, ratio={"kind": "density", "parameters": {"rotation": {"normal": [0.8, 0.1]}}})
    assert seed_run.stored_ratio(mixture, 0) is known
    assert isinstance(seed_run.stored_ratio(mixture, 1), ReweightedRatio)


def test_a_known_ratio_is_made_once_and_follows_the_proposal(tmp_path, rows_of):
    target = {"rotation": {"normal": [0.8, 0.1]}}
    seed_run = seed_run_in(tmp_path, rounds=3, ratio={"kind": "density", "parameters": target})
    first = seed_run.ratio(round_proposal(seed_run, 0), 0)
    assert isinstance(first, DensityRatio)
    proposal = round_proposal(seed_run, 1)
    ratio = seed_run.ratio(proposal, 1)
    assert isinstance(ratio, ReweightedRatio)
    assert ratio.moved is proposal
    rows = to_cpu(proposal.sample(100, Streams(0)))
    shift = proposal.broad.log_prob(rows) - proposal.log_prob(rows)
    assert torch.allclose(ratio.log_ratio(rows), first.log_ratio(rows) + shift, atol=1e-5)
    assert seed_run.store.manifest().folders.keys() == {"rounds/000/ratio"}
    sampler = rounds.stored_sampler(seed_run, 1)
    assert sampler.ratio.log_ratio(rows).tolist() == ratio.log_ratio(rows).tolist()


def test_rounds_have_seeds_of_their_own_and_the_first_the_seed_runs(seed_run):
    seeds = [seed_run.round_seed(number) for number in range(5)]
    assert seeds[0] == seed_run.seed
    assert len(set(seeds)) == 5


def test_one_shot_rejection_beside_rounds_has_a_directory_and_no_rounds(seed_run):
    alone = seed_run.one_shot()
    assert alone.config.own_arm == "one_shot"
    assert alone.store.root == f"{seed_run.store.root}/one_shot"
    assert (alone.seed, alone.inputs) == (seed_run.seed, seed_run.inputs)
    assert seed_run.config.own_arm == "adaptive"
    assert alone._in_memory is not seed_run._in_memory


@pytest.mark.parametrize(("of_the_rounds", "pilot"), [(4_000, 4_000), (400, 2_000)])
def test_one_shot_rejection_beside_rounds_has_their_budget(of_the_rounds, pilot, tmp_path):
    """The last round's acceptance is of another proposal, and would keep nearly all of this one's."""
    envelope = {"kind": "budget", "acceptance": 0.5, "num_pilot": 2_000}
    section = {"num_rounds": 3, "acceptance": 0.05, "num_pilot": of_the_rounds}
    seed_run = seed_run_in(tmp_path, envelope=envelope, rounds=section)
    alone = seed_run.one_shot().config
    assert (alone.envelope.kind, alone.envelope.acceptance, alone.envelope.num_pilot) == ("budget", 0.05, pilot)
    assert seed_run.config.envelope.acceptance == 0.5
    exact = {"kind": "fixed", "log_m": 2.0}
    assert seed_run_in(tmp_path, envelope=exact, rounds=section).one_shot().config.envelope.kind == "fixed"
    without = seed_run_in(tmp_path, envelope=envelope, rounds={**section, "num_rounds": 1}).one_shot().config
    assert without.envelope.acceptance == 0.5
