"""What a run takes over from an earlier one is what it would have made itself, bit for bit."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import in_process
import pytest
import torch
from earlier_runs import MADE_WITH, basis_of, config_of, earlier_run, fill, put_pilot, seed_run_of, taken
from records import result_of

from rsf_dist.config.load import dump_config
from rsf_dist.config.ratio import RATIO_KINDS, RatioKind
from rsf_dist.config.sampling import Budget
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import PoolProposal
from rsf_dist.ratios import VerifierRatio
from rsf_dist.runs import reuse
from rsf_dist.runs.earlier_run import EarlierRun, find_earlier
from rsf_dist.runs.made_with import contents_of
from rsf_dist.runs.reuse import advice, require_libraries_and_seeds, require_use
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.envelope import AdaptiveEnvelope, BudgetEnvelope, CertifiedEnvelope, FixedEnvelope, PilotEnvelope
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.storage.run_store import RunStore

RATIO, PILOT, ROWS, OWN = "rounds/000/ratio", "rounds/000/pilot", "rounds/000/accepted", "models/one_shot"


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)


def sampling(num_accepted):
    return basis_of(sampling={"num_accepted": num_accepted, "chunk_size": in_process.CHUNK})


def sample(store, envelope, num_accepted):
    """N(0, 1) of N(0, 2): some 18 of 50 proposals accepted at M = e."""
    sampler = RejectionSampler(
        in_process.WIDE, in_process.RATIO, envelope, seed=3, chunk_size=in_process.CHUNK, store=store
    )
    return sampler.sample(num_accepted)


def needing(monkeypatch, envelope):
    """Let runs want the pilot of an envelope whose proposals their configurations cannot say."""
    monkeypatch.setattr(reuse, "pilot_rows", lambda *_: envelope.num_pilot)


def with_ratio(store):
    store.commit_folder(RATIO, lambda folder: None)
    return store


def files_of(store):
    """The rows' files, and everything in the manifest that does not tell the time."""
    manifest = store.manifest()
    for progress in manifest.rounds.values():
        progress.seconds = progress.result.report["seconds"] = 0.0
    bytes_of = {shard.path: store.read(shard.path) for shard in manifest.rounds[0].shards}
    return bytes_of, manifest.rounds


ENVELOPES = {
    "fixed": FixedEnvelope(1.0, num_pilot=100),
    "pilot": PilotEnvelope(num_pilot=100, margin=0.1),
    "adaptive": AdaptiveEnvelope(num_pilot=2),
    "budget": BudgetEnvelope(0.3, num_pilot=100),
}


@pytest.mark.parametrize("wanted", [100, 101, 130, 400])
@pytest.mark.parametrize("kind", ENVELOPES)
def test_sampling_draws_on_and_the_rows_are_those_of_a_fresh_run(kind, wanted, tmp_path, monkeypatch):
    drawn = in_process.without_ray(monkeypatch)
    needing(monkeypatch, ENVELOPES[kind])
    monkeypatch.setattr(in_process.RATIO, "log_bound", None)
    old, fresh = (with_ratio(RunStore(tmp_path / name)) for name in ("old", "fresh"))
    sample(old, ENVELOPES[kind], 100)
    in_old = len(drawn)
    expected = sample(fresh, ENVELOPES[kind], wanted)
    in_fresh = len(drawn) - in_old
    new = RunStore(tmp_path / "new")
    assert taken(EarlierRun(old, sampling(100)), tmp_path / "new", sampling(wanted)) == {RATIO, PILOT, ROWS}
    assert new.round(0).complete == (wanted == 100)
    shutil.rmtree(tmp_path / "old")
    result = sample(new, ENVELOPES[kind], wanted)
    assert drawn[in_old + in_fresh :] == list(range(in_old, in_fresh))  # none again, and only what is missing
    assert result.fingerprint == expected.fingerprint
    assert files_of(new) == files_of(fresh)
    if wanted == 400:
        assert (result.report.log_m > new.round(0).drawn_at_log_m) == (kind == "adaptive")


def test_an_m_that_grew_for_more_rows_is_why_fewer_rows_are_drawn_anew(tmp_path, monkeypatch):
    """Were the chunks of more rows taken over, the adaptive M would be too large for fewer rows."""
    in_process.without_ray(monkeypatch)
    needing(monkeypatch, ENVELOPES["adaptive"])
    monkeypatch.setattr(in_process.RATIO, "log_bound", None)
    old, fresh = (with_ratio(RunStore(tmp_path / name)) for name in ("old", "fresh"))
    many, few = (sample(store, ENVELOPES["adaptive"], n) for store, n in ((old, 400), (fresh, 20)))
    assert many.report.log_m > few.report.log_m
    assert taken(EarlierRun(old, sampling(400)), tmp_path / "new", sampling(20)) == {RATIO, PILOT}
    assert sample(RunStore(tmp_path / "new"), ENVELOPES["adaptive"], 20).fingerprint == few.fingerprint


@pytest.mark.parametrize(("wanted", "partial"), [(60, False), (160, False), (200, True)])
def test_a_pool_is_read_on_to_its_end(wanted, partial, tmp_path, monkeypatch):
    """A pool of 330 rows, of which 165 pass; more wanted rows than the budget's default would allow of proposals."""
    in_process.without_ray(monkeypatch)
    needing(monkeypatch, CertifiedEnvelope(60))
    monkeypatch.setattr("rsf_dist.config.sampling.Budget.proposals_for", lambda *_: in_process.CHUNK)
    budget = {"on_shortfall": "partial" if partial else "error"}

    images = ImageSet(torch.zeros(330, 1, 1, 1, dtype=torch.uint8), torch.arange(330) % 2, ("even", "odd"))
    pool = PoolProposal(images).shuffled(Streams(0))
    even = VerifierRatio(lambda rows: rows["label"] == 0, columns=["label"])

    def read(store, wanted):
        options = {"chunk_size": in_process.CHUNK, "store": store, "budget": Budget(**budget)}
        return RejectionSampler(pool, even, CertifiedEnvelope(60), **options).sample(wanted)

    def basis(wanted):
        sampling = {"num_accepted": wanted, "chunk_size": in_process.CHUNK, "budget": budget}
        return basis_of(proposal={"kind": "dataset"}, sampling=sampling)

    old, fresh = (with_ratio(RunStore(tmp_path / name)) for name in ("old", "fresh"))
    read(old, 60)
    assert ROWS in taken(EarlierRun(old, basis(60)), tmp_path / "new", basis(wanted))
    new, expected = read(RunStore(tmp_path / "new"), wanted), read(fresh, wanted)
    assert new.fingerprint == expected.fingerprint
    assert files_of(RunStore(tmp_path / "new")) == files_of(fresh)


def test_a_round_that_was_interrupted_is_drawn_on(tmp_path, monkeypatch):
    drawn = in_process.without_ray(monkeypatch)
    needing(monkeypatch, ENVELOPES["fixed"])
    old, fresh = (with_ratio(RunStore(tmp_path / name)) for name in ("old", "fresh"))
    sample(old, ENVELOPES["fixed"], 100)
    old.commit(lambda manifest: setattr(manifest.rounds[0], "result", None))
    expected = sample(fresh, ENVELOPES["fixed"], 100)
    before = len(drawn)
    taken(EarlierRun(old, sampling(100)), tmp_path / "new", sampling(100))
    assert sample(RunStore(tmp_path / "new"), ENVELOPES["fixed"], 100).fingerprint == expected.fingerprint
    assert len(drawn) == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(b"other")], ids=["gone", "other"])
def test_a_damaged_shard_is_not_taken_and_its_chunk_is_drawn_again(harm, tmp_path, monkeypatch):
    drawn = in_process.without_ray(monkeypatch)
    needing(monkeypatch, ENVELOPES["fixed"])
    old = with_ratio(RunStore(tmp_path / "old"))
    expected = sample(old, ENVELOPES["fixed"], 100)
    harm(Path(old.path(old.round(0).shards[1].path)))
    drawn.clear()
    seed_run = seed_run_of(tmp_path / "new", sampling(100))
    reuse.take_over(EarlierRun(old, sampling(100)), sampling(100), [seed_run])
    assert [line for line in seed_run.progress.lines if "chunk-000001.parquet is damaged in" in line]
    assert sample(seed_run.store, ENVELOPES["fixed"], 100).fingerprint == expected.fingerprint
    assert drawn == [1]


@pytest.mark.parametrize(
    ("folder", "kept"),
    [(RATIO, set()), (PILOT, {RATIO}), (OWN, {RATIO, PILOT, ROWS, "models/random"})],
)
def test_what_rests_on_damaged_files_is_made_anew_with_a_line(folder, kept, tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of(evaluation={"test": {"kind": "digits"}, "arms": ["random"]}))
    (tmp_path / "old" / folder / "file").write_text("damaged")
    seed_run = seed_run_of(tmp_path / "new", earlier.basis)
    reuse.take_over(earlier, earlier.basis, [seed_run])
    manifest = seed_run.store.manifest()
    assert set(manifest.taken_over) == kept
    assert manifest.folders.keys() | {ROWS} == kept | {ROWS}
    assert manifest.made_anew[folder] == f"{folder}/file differs from its SHA-256 in the manifest"
    assert any(line.startswith("made anew: ") and line.endswith(manifest.made_anew[folder])
               for line in seed_run.progress.lines)  # fmt: skip


def test_the_manifest_and_the_lines_say_what_came_from_where(tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of())
    now = basis_of(training={"steps": 7}, sampling={"num_accepted": 200})
    seed_run = seed_run_of(tmp_path / "new", now)
    reuse.take_over(earlier, now, [seed_run])
    manifest = seed_run.store.manifest()
    rows = manifest.taken_over[ROWS]
    assert (rows.run, rows.folder, rows.files, rows.chunks) == (earlier.store.uri, "", 1, 4)
    assert (manifest.taken_over[RATIO].round, rows.round) == (None, 0)
    why = "sampling.num_accepted=200 (was 100), training.steps=7 (was 400)"
    assert manifest.made_anew == {OWN: why}
    assert seed_run.progress.lines == [
        f"taken over from {tmp_path}/old: ratio of round 0, pilot of round 0, rows of round 0",
        f"made anew: model of arm one_shot; {why}",
    ]


def test_the_earlier_run_is_only_read_and_may_be_deleted(tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of())
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    taken(earlier, tmp_path / "new", basis_of(training={"steps": 7}))
    assert {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()} == before
    shutil.rmtree(tmp_path / "old")
    new = RunStore(tmp_path / "new")
    assert all(new.is_intact(folder) for folder in (RATIO, PILOT))
    assert new.read(new.round(0).shards[0].path) == b"a shard"


def test_taking_over_again_changes_nothing(tmp_path):
    earlier, now = earlier_run(tmp_path / "old", basis_of()), basis_of(training={"steps": 7})
    taken(earlier, tmp_path / "new", now)
    first = RunStore(tmp_path / "new").manifest()
    taken(earlier, tmp_path / "new", now)
    assert RunStore(tmp_path / "new").manifest() == first


def test_what_rests_on_a_stage_that_the_run_made_itself_is_not_taken(tmp_path):
    """Its pilot may be another than that which the earlier run's rows rest on."""
    new = RunStore(tmp_path / "new")
    new.commit_folder(PILOT, lambda folder: (folder / "file").write_text("of this run"))
    assert taken(earlier_run(tmp_path / "old", basis_of()), tmp_path / "new", basis_of()) == {RATIO}
    assert new.manifest().made_anew == {ROWS: "without the pilot of round 0", OWN: "without the rows of round 0"}


@pytest.mark.parametrize(("drawn", "kept"), [(20_000, {RATIO, PILOT, ROWS, OWN}), (19_999, {RATIO})])
def test_a_pilot_serves_with_the_proposals_that_it_really_has(drawn, kept, tmp_path):
    """That of a plan may be smaller than its envelope says, where proposals are slow."""
    earlier, new = earlier_run(tmp_path / "old", basis_of()), RunStore(tmp_path / "new")
    earlier.store.commit_folder(PILOT, partial(put_pilot, drawn))
    assert taken(earlier, tmp_path / "new", basis_of()) == kept
    told = new.manifest().made_anew
    assert told.get(PILOT) == (None if PILOT in kept else "it needs a pilot of 20,000 proposals (was 19,999)")
    assert new.is_listed(PILOT) == (PILOT in kept)


@pytest.mark.parametrize(("bound", "kept"), [(1.0, {RATIO, PILOT, ROWS, OWN}), (None, {RATIO})])
def test_few_proposals_serve_an_envelope_that_takes_the_ratios_bound(bound, kept, tmp_path):
    basis = basis_of(envelope={"kind": "pilot"})
    earlier = earlier_run(tmp_path / "old", basis)
    earlier.store.commit_folder(PILOT, partial(put_pilot, 2_000, log_bound=bound))
    assert taken(earlier, tmp_path / "new", basis) == kept


def test_no_stage_is_both_taken_over_and_made_anew(tmp_path):
    """A first run gives all but the model. What another one cannot give is here already, but for what was damaged."""
    now, new = basis_of(training={"steps": 7}), RunStore(tmp_path / "new")
    taken(earlier_run(tmp_path / "first", basis_of()), tmp_path / "new", now)
    assert set(new.manifest().made_anew) == {OWN}
    before = new.manifest().taken_over
    other = earlier_run(tmp_path / "other", basis_of(ratio={"num_proposals": 99}))
    assert taken(other, tmp_path / "new", now) == {RATIO, PILOT, ROWS}
    assert new.manifest().taken_over == before
    assert set(new.manifest().made_anew) == {OWN}
    for store in (new, other.store):
        Path(store.path(f"{PILOT}/file")).write_text("damaged")
    assert taken(other, tmp_path / "new", now) == {RATIO, ROWS}
    assert set(new.manifest().made_anew) == {PILOT, OWN}


def test_a_stage_that_another_run_gives_later_is_no_longer_made_anew(tmp_path):
    new, now = RunStore(tmp_path / "new"), basis_of(training={"steps": 7})
    taken(earlier_run(tmp_path / "first", basis_of(ratio={"num_proposals": 99}, training={"steps": 7})), new.root, now)
    assert set(new.manifest().made_anew) == {RATIO, PILOT, ROWS, OWN}
    assert taken(earlier_run(tmp_path / "second", now), new.root, now) == {RATIO, PILOT, ROWS, OWN}
    assert new.manifest().made_anew == {}


def test_what_is_made_again_was_not_taken_over(tmp_path):
    new = RunStore(tmp_path / "new")
    assert PILOT in taken(earlier_run(tmp_path / "old", basis_of()), tmp_path / "new", basis_of())
    new.commit_folder(PILOT, lambda folder: (folder / "file").write_text("of this run"))
    assert set(new.manifest().taken_over) == {RATIO, ROWS, OWN}


def test_seeds_are_matched_by_their_number(tmp_path):
    basis = basis_of(seed=3, num_seeds=2)
    store = RunStore(tmp_path / "old")
    for folder in ("seeds/000", "seeds/001"):
        fill(store.at(folder), basis.config, 0)
    earlier = EarlierRun(store, basis)
    for seed, folder in ((3, "seeds/000"), (4, "seeds/001")):
        seed_run = seed_run_of(tmp_path / f"new-{seed}", basis_of(seed=seed))
        reuse.take_over(earlier, basis_of(seed=seed), [seed_run])
        assert seed_run.store.manifest().taken_over[ROWS].folder == folder


def test_other_seeds_and_libraries_are_refused_without_an_image(tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of(seed=3, num_seeds=2))
    for seed, num_seeds in ((3, 1), (2, 2), (4, 1), (4, 3)):
        require_libraries_and_seeds(earlier, config_of(seed=seed, num_seeds=num_seeds))
    for seed, num_seeds in ((5, 1), (2, 1), (0, 3)):
        with pytest.raises(InputError, match=rf"nothing of seed {seed} \(its first seed is 3\)"):
            require_libraries_and_seeds(earlier, config_of(seed=seed, num_seeds=num_seeds))
    other = replace(earlier, basis=replace(earlier.basis, made_with=MADE_WITH | {"torch": "9"}))
    with pytest.raises(InputError, match=r"--from=.*old: nothing of it serves this run: torch .* \(was 9\)"):
        require_libraries_and_seeds(other, config_of(seed=3))


def test_one_shot_rejection_beside_rounds_is_taken_over_too(tmp_path):
    sections = {"rounds": 3, "evaluation": {"test": {"kind": "digits"}, "arms": ["one_shot"]}}
    earlier = earlier_run(tmp_path / "old", basis_of(**sections))
    fill(earlier.store.at("one_shot"), reuse.without_rounds(earlier.basis.config), 0)
    taken(earlier, tmp_path / "new", basis_of(**sections, model={"width": 8}))
    assert set(RunStore(tmp_path / "new" / "one_shot").manifest().taken_over) == {RATIO, PILOT, ROWS}
    taken(earlier, tmp_path / "without", basis_of(rounds=3))
    assert not (tmp_path / "without" / "one_shot").exists()


def test_a_kind_of_the_users_own_is_not_known(tmp_path):
    class OwnConfig(RatioKind):
        """A ratio of the user's own."""

        kind: Literal["own"]

    RATIO_KINDS.register(OwnConfig)
    try:
        basis = basis_of(ratio={"kind": "own"}, pretrain={"steps": 3})
        earlier = earlier_run(tmp_path / "old", basis)
        assert taken(earlier, tmp_path / "new", basis) == {"models/pretrained"}
        why = RunStore(tmp_path / "new").manifest().made_anew[RATIO]
        assert why == "OwnConfig is no kind of rsf_dist's own"
    finally:
        RATIO_KINDS.forget(OwnConfig)


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [("a", "a", True), ("a", "b", False), (None, "a", False), ("a", None, False), (None, None, False)],
)
def test_contents_that_a_stage_names_must_be_equal_and_known(before, now, kept, tmp_path):
    sections = {"ratio": {"kind": "product", "factors": [
        {"kind": "custom", "factory": "my:ratio"}, {"kind": "verifier", "passes": "my:check"}]}}  # fmt: skip
    known = MADE_WITH | {contents_of("my:check"): "c"}
    old, new = (basis_of(record=known | {contents_of("my:ratio"): value}, **sections) for value in (before, now))
    assert (RATIO in taken(earlier_run(tmp_path / "old", old), tmp_path / "new", new)) == kept


def test_what_is_no_earlier_run_is_refused(tmp_path):
    def refused(uri, output=tmp_path / "new"):
        with pytest.raises(InputError) as caught:
            find_earlier(str(uri), str(output))
        return str(caught.value)

    assert f"--from={tmp_path}/none: holds no run; name the directory of an rsf run" in refused(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    earlier = earlier_run(tmp_path / "old", basis_of())
    (tmp_path / "link").symlink_to("old")
    for output in ("old", "link", "old/../old"):
        assert "is the output itself; name another output" in refused(tmp_path / "old", tmp_path / output)
    assert "--from=nowhere://x: is no path or URI" in refused("nowhere://x")
    manifest = json.loads(earlier.store.read("manifest.json"))
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest | {"version": 3}))
    assert "--from" in refused(tmp_path / "old")
    assert "was written by an older version of rsf_dist (manifest version 3" in refused(tmp_path / "old")
    for name in ("manifest.json", "manifest.previous.json"):
        (tmp_path / "old" / name).write_text("{")
    assert "its manifest.json is damaged" in refused(tmp_path / "old")
    fill(RunStore(tmp_path / "other"), basis_of().config, 0)
    (tmp_path / "other" / "config.yaml").write_text("colour: red")
    assert f"--from={tmp_path}/other: its config.yaml does not fit" in refused(tmp_path / "other")


def test_a_run_of_which_nothing_serves_is_refused_before_anything_is_written(tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of())
    for now, reason in (
        (basis_of({"source": "others"}), "the images of source differ, the images of target differ"),
        (basis_of(ratio={"num_proposals": 99}), "ratio.num_proposals=99 (was 8000)"),
        (basis_of(record=MADE_WITH | {"torch": "9"}), "torch 9 (was "),
        (basis_of(seed=1), "it has no stage of this run"),
    ):
        with pytest.raises(InputError) as caught:
            require_use(earlier, now, [seed_run_of(tmp_path / "new", now)])
        assert f"--from={tmp_path}/old: nothing of it serves this run: {reason}" in str(caught.value)
        assert not (tmp_path / "new").exists()
    require_use(earlier, basis_of(), [seed_run_of(tmp_path / "new", basis_of())])


@pytest.mark.parametrize(
    ("moved", "titles"),
    [
        ({"training": {"steps": 7}}, "ratio of round 0, pilot of round 0, rows of round 0"),
        ({"sampling": {"num_accepted": 200}}, "ratio of round 0, pilot of round 0, rows of round 0"),
        ({"envelope": {"kind": "fixed", "log_m": 1}}, "ratio of round 0"),
        ({"envelope": {"kind": "pilot", "num_pilot": 20_000}}, "ratio of round 0, pilot of round 0"),
        ({"envelope": {"kind": "custom", "factory": "not_imported_yet:make"}}, "ratio of round 0"),
        ({"ratio": {"num_proposals": 99}}, ""),
        ({"seed": 1}, ""),
        ({"target": {"kind": "digits", "limit": 99}}, ""),
    ],
)
def test_a_directory_that_holds_another_run_says_what_of_it_would_serve(moved, titles, tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of())
    assert advice(earlier.store, basis_of(**moved).config) == titles


def test_rows_that_ended_short_of_the_rows_go_on_under_another_budget(tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of())
    short = replace_report(result_of(wanted=100), shortfall=5)
    earlier.store.commit(lambda manifest: setattr(manifest.rounds[0], "result", short))
    assert ROWS in taken(earlier, tmp_path / "new", basis_of())
    assert RunStore(tmp_path / "new").round(0).result == short  # which is complete for its own budget alone


def replace_report(result, **changes):
    return result.model_copy(update={"report": result.report | changes})


def test_the_configuration_in_the_directory_is_the_one_that_is_compared(tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of())
    earlier.store.write("config.yaml", dump_config(basis_of(training={"steps": 3}).config))
    found = find_earlier(str(tmp_path / "old"), str(tmp_path / "new"))
    assert found.basis.config.training.steps == 3
    assert found.basis.made_with == {}
