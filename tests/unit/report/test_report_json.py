"""Rounds in report.json: their entries, the merged record of several seeds, and a round's line."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from records import entry_of, evaluation_of
from seed_runs import ESTIMATE, report_round, seed_run_in, store_decision, store_rows

from rsf_dist.errors import InputError
from rsf_dist.report import report_json, sample_images
from rsf_dist.report.schema import Check
from rsf_dist.runs import rounds
from rsf_dist.storage.run_store import RunStore


@pytest.fixture
def seed_run(tmp_path):
    return seed_run_in(tmp_path, rounds=3)


def test_an_entry_takes_its_place_and_later_ones_go(tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    for number in range(3):
        report_json.add_round(store, entry_of(number, last=number == 2, fingerprint=f"f{number}"))
    assert [one.round for one in report_json.read(store).rounds] == [0, 1, 2]
    assert report_json.last_round(store).round == 2
    assert report_json.has_round(store, "f1")
    report_json.add_round(store, entry_of(1, fingerprint="other"))
    assert [one.fingerprint for one in report_json.read(store).rounds] == ["f0", "other"]
    assert not report_json.has_round(store, "f1")
    assert not report_json.has_round(store, "f2")


@pytest.mark.parametrize("entries", [[], [entry_of(0)], [entry_of(0), entry_of(1)]])
def test_a_run_whose_last_round_is_missing_has_no_rows_to_train_on(entries, tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    for one in entries:
        report_json.add_round(store, one)
    with pytest.raises(InputError, match=r"run=.*has no accepted rows to train on; sample them first: rsf sample"):
        report_json.last_round(store)
    with pytest.raises(InputError, match="no accepted rows"):
        rounds.last_rows(SimpleNamespace(store=store))
    with pytest.raises(InputError, match=r"run=.*has no accepted rows to report on; run it again") as caught:
        report_json.merge([store], [""])
    assert str(tmp_path) in str(caught.value)


def two_seed_runs(folder, second_is_done=True, evaluations=()):
    stores = [RunStore(folder / name) for name in ("000", "001")]
    for seed, store in enumerate(stores):
        report_json.begin(store, seed)
        report_json.add_round(store, entry_of(0, fingerprint=f"f{seed}"))
        report_json.add_round(store, entry_of(1, last=second_is_done or seed == 0))
    for store, evaluation in zip(stores, evaluations, strict=False):
        report_json.set_evaluation(store, evaluation)
    return stores


def test_the_seed_whose_last_round_is_missing_is_named(tmp_path):
    stores = two_seed_runs(tmp_path, second_is_done=False)
    with pytest.raises(InputError, match="has no accepted rows to report on") as caught:
        report_json.merge(stores, ["000", "001"])
    assert caught.value.value == stores[1].uri


def test_records_of_two_seeds_are_merged(tmp_path):
    """Means of two seeds: random .6, adaptive .8, oracle .9, hence (.8 - .6)/(.9 - .6) of the gap."""
    values = [{"random": 0.5, "adaptive": 0.7, "oracle": 0.9}, {"random": 0.7, "adaptive": 0.9, "oracle": 0.9}]
    evaluations = [evaluation_of({arm: [value] for arm, value in one.items()}) for one in values]
    merged = report_json.merge(two_seed_runs(tmp_path, evaluations=evaluations), ["a", "b"])
    assert (merged.seeds, merged.folders) == ([0, 1], ["a", "b"])
    assert [one.fingerprint for one in merged.rounds] == ["f0", "f"]
    assert merged.evaluation.arms == {"random": [0.5, 0.7], "adaptive": [0.7, 0.9], "oracle": [0.9, 0.9]}
    assert merged.evaluation.source["oracle"] == [0.45, 0.45]
    assert merged.evaluation.gap_closed == pytest.approx({"adaptive": 2 / 3})


@pytest.mark.parametrize("evaluated", [0, 1])
def test_seeds_that_were_only_sampled_have_nothing_to_compare(evaluated, tmp_path):
    evaluations = [evaluation_of({"random": [0.5], "adaptive": [0.7]})] * evaluated
    assert report_json.merge(two_seed_runs(tmp_path, evaluations=evaluations), ["a", "b"]).evaluation is None


def test_the_red_checks_of_each_seeds_last_round_are_merged(tmp_path):
    def trust(**lights):
        return [Check(name, "value", light, "meaning", "rule") for name, light in lights.items()]

    stores = two_seed_runs(tmp_path)
    lights = (("red", "red"), ("green", "red"))
    for store, (one, other) in zip(stores, lights, strict=True):
        report_json.add_round(store, entry_of(0, trust=trust(before="red")))
        report_json.add_round(store, entry_of(1, last=True, trust=trust(bias=one, tail=other, rows="amber")))
    assert report_json.merge(stores, ["a", "b"]).red == [["bias", "tail"], ["tail"]]
    assert report_json.merge(stores[1:], ["b"]).red == [["tail"]]


def test_what_rows_are_made_of_in_quantiles(seed_run):
    """The 5, 25, 50, 75 and 95 % quantiles of 0, .01, … 1 are these numbers themselves."""
    values = torch.arange(101) / 100
    rows = {
        "image": torch.zeros(101, 1, 8, 8, dtype=torch.uint8), "label": torch.zeros(101, dtype=torch.int64),
        "latent": torch.zeros(101, 3), "turn": values, "log_ratio": values, "index": torch.arange(101),
        "accept_key": torch.full((101,), 2.0, dtype=torch.float64),
    }  # fmt: skip

    class Turned:
        def sample(self, n, rng):
            made = {name: rows[name][torch.arange(n) % 101] for name in ("image", "label", "latent")}
            return made | {"turn": torch.full((n,), 3.0)}

    report = report_round(seed_run, 0, last=True).report
    store_rows(seed_run.store, 4, rows, replace(report, num_accepted=101))
    told = sample_images.save_round(seed_run.store, 4, Turned(), seed=0)
    assert told.keys() == {"turn"}
    assert told["turn"].accepted == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95])
    assert told["turn"].proposed == [3.0] * 5
    assert sample_images.load(seed_run.store, sample_images.round_samples(4))["accepted"].shape == (12, 1, 8, 8)


def test_a_rounds_line(seed_run):
    accepted = report_round(seed_run, 0, last=False)
    report_round(seed_run, 1, last=True)
    first, second = seed_run.progress.lines
    count = accepted.report.num_accepted
    assert first.startswith(f"round 0: accepted {count} of 1,500 proposals (")
    assert "log M 1.500" in first
    assert "held-out AUC of the ratio 0." in first
    assert second.startswith("round 1: accepted ")
    alone = report_json.last_round(seed_run.store).model_copy(update={"round": 0})
    assert report_json.format_round(alone).startswith("accepted ")  # the only one


def test_a_rounds_entry_has_the_estimated_class_prior_and_its_effective_classes(seed_run):
    store_decision(seed_run, 1)
    report_round(seed_run, 0, last=False)
    report_round(seed_run, 1, last=True)
    first, last = report_json.read(seed_run.store).rounds
    assert first.class_prior is None
    effective = {"effective_classes": pytest.approx(2.8, abs=0.01)}
    assert last.class_prior.estimate.model_dump() == ESTIMATE.to_json() | effective
    assert last.class_prior.reason_kept is None
