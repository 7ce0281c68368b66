"""What leaves a real run: its accepted rows, and the predictions of its model."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

import rsf_dist as rsf
from rsf_dist.config.load import parse_config
from rsf_dist.data.arrow import from_table
from rsf_dist.models.networks import ExpectedImages
from rsf_dist.outputs.export import export
from rsf_dist.outputs.predict import predict
from rsf_dist.report import report_json
from rsf_dist.runs import pipeline
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.storage.run_store import RunStore

pytestmark = pytest.mark.ray


def test_a_run_gives_its_rows_and_its_model_away(small_run: dict, tmp_path: Path) -> None:
    small_run["evaluation"]["arms"] = ["pretrained"]
    config = parse_config(small_run)
    result = pipeline.run(config)
    accepted = AcceptedSet.load(RunStore(config.output), 0)
    rows = from_table(accepted.head(256))

    done = export(config.output, str(tmp_path / "out"), "parquet")
    assert (done.num_rows, done.fingerprint) == (256, accepted.fingerprint)
    table = pq.read_table(tmp_path / "out")
    for name in ("chunk", "index", "log_ratio", "weight", "rotation", "label"):
        assert np.array_equal(table[name].to_numpy(), rows[name].numpy()), name
    labels = load_digits().target  # a digit's name is its number among the scans
    assert [labels[int(name)] for name in table["source"].to_pylist()] == rows["label"].tolist()

    model = rsf.load_model(config.output)
    assert model.expects == ExpectedImages((8, 8), "cover", None)
    found = predict(config.output, small_run["evaluation"]["test"]["root"], str(tmp_path / "predicted"))
    evaluation = report_json.read(result.store).evaluation
    assert evaluation is not None
    assert found.accuracy == pytest.approx(
        evaluation.arms[config.own_arm][0], abs=0.006
    )  # one image in 200 may be a tie
    with (tmp_path / "predicted" / "predictions.csv").open(newline="") as file:
        predicted = [row["class"] == row["label"] for row in csv.DictReader(file)]
    assert sum(predicted) / 200 == found.accuracy
    assert torch.equal(model(rows["image"]), result.load_model()(rows["image"]))
