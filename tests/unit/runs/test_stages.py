"""The table of what each stage depends on: one key is moved, and exactly the stages that depend on it are made anew."""

from dataclasses import replace

import pytest
from earlier_runs import DIGESTS, MADE_WITH, basis_of, earlier_run, taken

from rsf_dist.config.resume import leaves
from rsf_dist.runs.stages import stages, values

PRE, RATIO, PILOT, ROWS = "models/pretrained", "rounds/000/ratio", "rounds/000/pilot", "rounds/000/accepted"
OWN, RANDOM, PSEUDO, ORACLE = (f"models/{arm}" for arm in ("one_shot", "random", "pseudo_labels", "oracle"))
IMAGES = {"kind": "digits"}
ONCE = {
    "pretrain": {"steps": 9},
    "evaluation": {"test": IMAGES, "oracle": IMAGES, "arms": ["pretrained", "random", "pseudo_labels", "oracle"]},
    "envelope": {"kind": "budget", "acceptance": 0.1},
    "training": {"steps": 5},
}
ALL = {PRE, RATIO, PILOT, ROWS, OWN, RANDOM, PSEUDO, ORACLE}
MODELS = {OWN, RANDOM, PSEUDO, ORACLE}


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch):
    """Hundreds of small files are written here, and a busy disk takes long to flush each."""
    monkeypatch.setattr("os.fsync", lambda number: None)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A run of one round, which the tests only read."""
    return earlier_run(tmp_path_factory.mktemp("once"), basis_of(**ONCE))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run of several rounds, which the tests only read."""
    return earlier_run(tmp_path_factory.mktemp("several"), basis_of(**SEVERAL))


def of(section, **keys):
    return {section: ONCE.get(section, {}) | keys}


@pytest.mark.parametrize(
    ("moved", "kept"),
    [
        ({}, ALL),
        ({"output": "elsewhere"}, ALL),
        (of("training", steps=6), ALL - MODELS),
        (of("training", batch_size=32), ALL - MODELS),
        (of("training", use_row_weights=True), ALL - MODELS),
        (of("training", num_workers=2), ALL - MODELS),
        (of("training", cpus_per_worker=2), ALL - MODELS - {PRE}),  # its threads add up in another order
        (of("training", max_failures=9), ALL),
        (of("training", wait_seconds=9), ALL),
        ({"model": {"width": 8}}, {RATIO, PILOT, ROWS}),
        ({"model": {"width": 4, "dropout": 0.3}}, {RATIO, PILOT, ROWS}),
        ({"task": {"kind": "custom", "factory": "my:task"}}, {RATIO, PILOT, ROWS}),
        (of("pretrain", steps=10), {RATIO, PILOT, ROWS}),
        ({"pretrain": None}, {RATIO, PILOT, ROWS}),
        (of("evaluation", pseudo_label_confidence=0.8), ALL - {PSEUDO}),
        (of("evaluation", arms=["random", "oracle"]), ALL - {PSEUDO}),
        (of("evaluation", arms=["random", "oracle", "weighted", "batch_norm"]), ALL - {PSEUDO}),
        (of("evaluation", feature_network={"width": 7}), ALL),
        (of("evaluation", source_test=IMAGES), ALL),
        (of("envelope", acceptance=0.2), {PRE, RATIO, PILOT}),
        (of("envelope", num_pilot=30_000), {PRE, RATIO}),
        ({"envelope": {"kind": "fixed", "log_m": 1.0}}, {PRE, RATIO}),  # its pilot is smaller
        ({"envelope": {"kind": "pilot", "num_pilot": 20_000}}, {PRE, RATIO, PILOT}),
        ({"sampling": {"num_accepted": 101}}, {PRE, RATIO, PILOT, ROWS}),
        ({"sampling": {"num_accepted": 99}}, {PRE, RATIO, PILOT}),
        ({"sampling": {"num_accepted": 100, "chunk_size": 512}}, {PRE, RATIO}),
        ({"sampling": {"num_accepted": 100, "mode": "stream"}}, {PRE, RATIO, PILOT, ROWS}),
        ({"sampling": {"num_accepted": 100, "pool": {"gpus_per_actor": 0.5}}}, {PRE, RATIO}),
        ({"sampling": {"num_accepted": 100, "pool": {"max_actors": 9, "cpus_per_actor": 2}}}, ALL),
        ({"sampling": {"num_accepted": 100, "budget": {"max_seconds": 9}}}, ALL),
        ({"sampling": {"num_accepted": 100, "budget": {"max_proposals": 4 * 4096}}}, ALL),
        ({"sampling": {"num_accepted": 100, "budget": {"max_proposals": 4 * 4096 - 1}}}, {PRE, RATIO, PILOT}),
        ({"proposal": {"parameters": {"rotation": {"uniform": [-1.5, 1.4]}}}}, {PRE}),
        ({"ratio": {"num_proposals": 9_000}}, {PRE}),
        ({"ratio": {"cpus": 2}}, {PRE}),
        ({"ratio": {"wait_seconds": 2}}, ALL),
        ({"ratio": {"kind": "verifier", "passes": "my:check"}}, {PRE}),
        ({"seed": 1}, set()),
        ({"num_seeds": 2}, ALL),  # of the first one
        ({"rounds": 3}, {PRE, RATIO}),
        ({"rounds": {"num_rounds": 3, "num_pilot": 20_000}}, {PRE, RATIO, PILOT}),
        ({"rounds": {"num_rounds": 1, "acceptance": 0.5}}, ALL),  # there are no such rounds
        ({"source": {"kind": "digits", "limit": 99}}, ALL),  # the images count, not where they lie
    ],
)
def test_of_one_round(moved, kept, once, tmp_path):
    assert taken(once, tmp_path / "new", basis_of(**ONCE | moved)) == kept


@pytest.mark.parametrize("name", ["wait_seconds", "max_failures"])
@pytest.mark.parametrize(("section", "kept"), [("ratio", {PRE}), ("proposal", {PRE}), ("task", {RATIO, PILOT, ROWS})])
def test_an_option_of_the_users_own_code_counts_whatever_its_name(section, kept, name, tmp_path):
    def with_option(value):
        return basis_of(**ONCE | {section: {"kind": "custom", "factory": "my:own", "options": {name: value}}})

    earlier = earlier_run(tmp_path / "old", with_option(1))
    assert taken(earlier, tmp_path / "same", with_option(1)) == ALL
    assert taken(earlier, tmp_path / "new", with_option(2)) == kept


BEST = {"proposal": {"kind": "dataset", "images": IMAGES}, "sampling": {"top_k": 100}}


@pytest.mark.parametrize(
    ("moved", "pool", "kept"),
    [
        ({}, "a", {RATIO, PILOT, ROWS, "models/top_k"}),
        ({"envelope": {"kind": "fixed", "log_m": 1}}, "a", {RATIO, PILOT, ROWS, "models/top_k"}),  # it has no effect
        ({"sampling": {"top_k": 101}}, "a", {RATIO, PILOT}),  # read at another M
        ({"sampling": {"top_k": 99}}, "a", {RATIO, PILOT}),
        ({"sampling": {"num_accepted": 100}}, "a", {RATIO}),
        ({"sampling": {"num_accepted": 100}, "envelope": {"kind": "fixed", "log_m": 1}}, "a", {RATIO, PILOT}),
        ({"training": {"steps": 9}}, "a", {RATIO, PILOT, ROWS}),
        ({}, "b", set()),
        ({"proposal": {"kind": "dataset"}}, None, set()),
    ],
)
def test_of_a_pool(moved, pool, kept, tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of(DIGESTS | {"pool": "a"}, **BEST))
    digests = DIGESTS | ({"pool": pool} if pool else {})
    assert taken(earlier, tmp_path / "new", basis_of(digests, **BEST | moved)) == kept


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("source", set()),
        ("target", {PRE}),
        ("oracle", ALL - {ORACLE}),
        ("test", ALL),
        ("source_test", ALL),
    ],
)
def test_of_images_the_digest_counts(name, kept, once, tmp_path):
    now = basis_of(DIGESTS | {name: "others"}, **ONCE)
    assert taken(once, tmp_path / "new", now) == kept


BY_DIGEST = ("source.", "target.", "evaluation.test", "evaluation.source_test", "evaluation.oracle")
BY_NUMBER = ("seed", "num_seeds")
REPORT_ONLY = ("evaluation.feature_network", "evaluation.arms")
NO_EFFECT = (
    "output",
    "code_folder",  # its contents count
    "sampling.pool.",
    "sampling.budget.",  # looked at with the chunks
    "training.max_failures",
    "training.wait_seconds",
    "ratio.wait_seconds",
    "rounds.class_prior.wait_seconds",
)


def test_every_key_is_in_the_table_or_known_to_change_no_stored_result():
    """A new key must be put into one of both: left out of the table, it would be ignored in silence."""
    config = basis_of(**SEVERAL, pretrain={"steps": 9}).config
    pseudo = config.model_copy(update={"evaluation": basis_of(**ONCE).config.evaluation})
    table = [*stages(config, last=2).values(), *stages(pseudo, last=2).values()]
    known = {key for stage in table for key in [*values(config, stage), stage.wanted]}
    outside = (*BY_DIGEST, *BY_NUMBER, *REPORT_ONLY, *NO_EFFECT)
    assert [key for key in leaves(config) if key not in known and not key.startswith(outside)] == []


SEVERAL = {
    "rounds": {"num_rounds": 3, "min_auc_gain": 0.01},
    "evaluation": {"test": IMAGES, "arms": ["random"]},
    "envelope": {"kind": "budget", "acceptance": 0.1},
}


def names(rounds, last=None, models=("random", "adaptive")):
    """The stages of these rounds, and models where the last round is among them."""
    parts = {f"rounds/{number:03d}/{part}" for number in rounds for part in ("ratio", "pilot", "accepted")}
    return parts | ({f"models/{arm}" for arm in models} if last in rounds else set())


def rounds_with(**keys):
    return {"rounds": SEVERAL["rounds"] | keys}


@pytest.mark.parametrize(
    ("moved", "kept"),
    [
        ({}, names([0, 1, 2], last=2)),
        (rounds_with(num_rounds=5), names([0, 1])),  # round 2 is no longer the last one
        (rounds_with(num_rounds=2), names([0])),
        (rounds_with(num_rounds=1), {"rounds/000/ratio"}),
        (rounds_with(min_auc_gain=0.02), names([0])),  # whether a later round is the last one
        (rounds_with(acceptance=0.05), {"rounds/000/ratio", "rounds/000/pilot"}),
        (rounds_with(num_pilot=9_000), {"rounds/000/ratio"}),
        (rounds_with(num_accepted=2_000), names([0])),  # drawn on; the second round's proposal is another
        (rounds_with(num_accepted=900), {"rounds/000/ratio", "rounds/000/pilot"}),
        (rounds_with(warm_start_steps=7), names([0])),
        (rounds_with(max_components=2), names([0])),
        (rounds_with(defensive_share=0.2), names([0])),
        (rounds_with(class_prior={"smoothing": 0.1}), names([0, 1])),
        (rounds_with(class_prior=None), names([0, 1])),
        ({"envelope": {"kind": "budget", "acceptance": 0.2}}, names([0, 1, 2]) - {"rounds/002/accepted"}),
        ({"sampling": {"num_accepted": 200}}, names([0, 1, 2])),
        ({"model": {"width": 8}}, names([0, 1])),  # with it the class prior is estimated
        ({"training": {"steps": 7}}, names([0, 1, 2])),
        ({"pretrain": {"steps": 7}}, names([0, 1])),
    ],
)
def test_of_several_rounds(moved, kept, several, tmp_path):
    assert taken(several, tmp_path / "new", basis_of(**SEVERAL | moved)) == kept


@pytest.mark.parametrize("key", ["max_proposals", "max_seconds"])
def test_a_model_of_rows_beside_the_rounds_depends_on_their_budget(key, tmp_path):
    """Its rows may have ended short, when those of the rounds did not."""
    with_one_shot = SEVERAL | {"evaluation": {"test": IMAGES, "arms": ["random", "one_shot"]}}
    earlier = earlier_run(tmp_path / "old", basis_of(**with_one_shot))
    now = basis_of(**with_one_shot | {"sampling": {"num_accepted": 100, "budget": {key: 100_000}}})
    all_models = ("random", "one_shot", "adaptive")
    assert taken(earlier, tmp_path / "same", earlier.basis) == names([0, 1, 2], last=2, models=all_models)
    assert taken(earlier, tmp_path / "new", now) == names([0, 1, 2], last=2)


@pytest.mark.parametrize("prior", [{"network": {"width": 8}}, None], ids=["network of its own", "stays"])
def test_where_the_class_prior_needs_no_model_the_last_round_does_not_either(prior, tmp_path):
    before = SEVERAL | rounds_with(class_prior=prior)
    earlier = earlier_run(tmp_path / "old", basis_of(**before))
    assert taken(earlier, tmp_path / "new", basis_of(**before | {"model": {"width": 8}})) == names([0, 1, 2])


def test_a_round_after_which_the_rounds_ended_early_is_the_last_again(tmp_path):
    earlier = earlier_run(tmp_path / "old", basis_of(**SEVERAL), last=1)
    assert taken(earlier, tmp_path / "new", basis_of(**SEVERAL)) == names([0, 1], last=1)
    assert taken(earlier, tmp_path / "more", basis_of(**SEVERAL | rounds_with(num_rounds=4))) == names([0])


def test_names_of_attributes_count_with_their_values(tmp_path):
    """They are the names of the rows' columns. The images' digest holds their values alone."""
    images = {"kind": "npz", "root": "images.npz"}
    one, other = (basis_of(source=images | {"attributes": [name]}, **ONCE) for name in ("age", "years"))
    earlier = earlier_run(tmp_path / "old", one)
    assert taken(earlier, tmp_path / "same", one) == ALL
    assert taken(earlier, tmp_path / "new", other) == {PRE}


def test_a_known_ratio_belongs_to_the_first_round_and_later_rounds_rest_on_it(tmp_path):
    known = {"ratio": {"kind": "density", "parameters": {"rotation": {"normal": [0.8, 0.1]}}}}
    table = stages(basis_of(**SEVERAL | known).config, last=2)
    assert table["rounds/000/ratio"].folders == ("rounds/000/ratio",)
    assert "rounds/001/ratio" not in table
    assert table["rounds/001/pilot"].rests_on == ("rounds/000/ratio", "rounds/000/accepted")
    assert table["rounds/002/ratio"].folders == ("rounds/002/class_prior",)


def test_rows_of_a_single_round_are_not_those_of_a_first_round_of_several(tmp_path):
    """The same keys chose M for neither."""
    same = {"envelope": {"kind": "budget", "acceptance": 0.02, "num_pilot": 4_000}, "sampling": {"num_accepted": 1_000}}
    earlier = earlier_run(tmp_path / "old", basis_of(**same))
    assert "rounds/000/accepted" not in taken(earlier, tmp_path / "new", basis_of(**same, rounds=2))


@pytest.mark.parametrize("name", sorted(set(MADE_WITH) - {"accelerators"}))
@pytest.mark.parametrize("value", ["0.0.1", None])
def test_other_or_unknown_libraries_keep_nothing(name, value, once, tmp_path):
    earlier = replace(once, basis=basis_of(record=MADE_WITH | {name: value}, **ONCE))
    assert taken(earlier, tmp_path / "new", basis_of(**ONCE)) == set()


def test_a_run_without_a_record_of_libraries_keeps_nothing(once, tmp_path):
    earlier = replace(once, basis=basis_of(record={}, **ONCE))
    assert taken(earlier, tmp_path / "new", basis_of(**ONCE)) == set()


@pytest.mark.parametrize(("now", "ratio"), [("H200", True), ("A100", False), (None, False)])
@pytest.mark.parametrize("within", [False, True])
def test_the_model_of_a_gpu_counts_where_one_is_used(now, ratio, within, tmp_path):
    learned = {"gpus": 1}
    product = {"kind": "product", "factors": [{"kind": "label_shift", "target_prior": [1.0] * 10}, learned]}
    on_gpu = ONCE | {"ratio": product if within else learned}
    earlier = earlier_run(tmp_path / "old", basis_of(record=MADE_WITH | {"accelerators": "H200"}, **on_gpu))
    kept = taken(earlier, tmp_path / "new", basis_of(record=MADE_WITH | {"accelerators": now}, **on_gpu))
    assert kept == (ALL if ratio else {PRE})
