"""The report's schema: every key is described, what is written is valid by it, and what is no report is not."""

import json
import math

import jsonschema
import numpy as np
import pytest
from records import GOOD_REPORT, entry_of, evaluation_of

from rsf_dist.report import report_json
from rsf_dist.report.schema import Check, Report, RoundEntry, finite, report_schema
from rsf_dist.storage.run_store import RunStore

TRAINING = {
    "rows": 100,
    "metrics": {"step": 2, "accuracy": 0.5},
    "curve": [{"step": 1, "train_loss": 0.7, "learning_rate": 0.1}],
    "evaluations": [{"step": 2, "accuracy": 0.5}],
}


@pytest.fixture
def written(tmp_path) -> dict:
    store = RunStore(tmp_path)
    report_json.begin(store, seed=3)
    trust = [Check("bias of capping", "eps 0", "green", "no bias", "green up to 0.05")]
    report_json.add_round(store, entry_of(last=True, trust=trust))
    report = report_json.read(store).model_dump() | {"training": {"one_shot": TRAINING}}
    report_json.write(store, Report.model_validate(report))
    report_json.set_evaluation(store, evaluation_of({"random": [0.5], "adaptive": [0.7]}))
    report_json.write(store, report_json.merge([store], [""]))
    return json.loads(store.read(report_json.REPORT))


def test_a_report_is_valid_by_its_schema(written):
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.validate(written, report_schema())
    assert written["evaluation"].keys() >= {"metric", "arms", "gap_closed"}
    assert written["evaluation"]["arms"] == {"random": [0.5], "adaptive": [0.7]}
    assert written["rounds"][0]["sampling"] == finite(GOOD_REPORT.to_dict())


@pytest.mark.parametrize(
    "harm",
    [
        lambda report: report.pop("versions"),
        lambda report: report.update(more=1),
        lambda report: report["rounds"][0]["sampling"].pop("log_m"),
        lambda report: report["rounds"][0]["trust"][0].update(light="blue"),
        lambda report: report["evaluation"]["arms"].update(another=[0.5]),
        lambda report: report["training"]["one_shot"].update(rows="many"),
    ],
)
def test_what_is_no_report_is_not_valid(harm, written):
    harm(written)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, report_schema())
    with pytest.raises(ValueError, match="validation error"):
        Report.model_validate(written)


def test_every_key_is_described():
    schema = report_schema()
    assert schema["$defs"].keys() >= {"RoundEntry", "SamplingReport", "RatioEntry", "Check", "Evaluation"}
    for model in (schema, *schema["$defs"].values()):
        assert model["description"]
        for name, field in model["properties"].items():
            assert field.get("description"), (model["title"], name)


def test_numbers_come_back_to_the_last_bit():
    rng = np.random.default_rng(0)
    for number in (0.1 + 0.2, 5e-324, *rng.lognormal(0, 300, 1_000).tolist()):
        entry = entry_of(sampling=GOOD_REPORT.__class__(**vars(GOOD_REPORT) | {"mean_ratio": number}))
        again = RoundEntry.model_validate_json(entry.model_dump_json())
        assert again.sampling.mean_ratio == (number if math.isfinite(number) else None)


def test_what_is_not_finite_is_none():
    assert finite({"a": [1.0, math.nan], "b": (math.inf, 2), "c": "inf"}) == {
        "a": [1.0, None],
        "b": [None, 2],
        "c": "inf",
    }
