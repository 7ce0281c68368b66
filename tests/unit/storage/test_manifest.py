"""The manifest's schema: every key is described, and what is written is valid by it."""

import json

import jsonschema
import pytest
from records import progress_of, result_of

from rsf_dist.storage.manifest import VERSION, Manifest, Shard, manifest_schema, read_manifest
from rsf_dist.storage.run_store import RunStore

SHARD = Shard(0, "rounds/000/accepted/chunk-000000.parquet", 2, "ab")
OURS = ("Shard", "WorkIdentity", "RoundResult", "RoundProgress")


@pytest.fixture
def written(tmp_path) -> dict:
    store = RunStore(tmp_path)
    store.commit_folder("ratio", lambda folder: (folder / "ratio.json").write_text("{}"))
    store.commit_round(0, progress_of(SHARD))
    store.commit_round(1, progress_of(SHARD, result=result_of()))
    return json.loads((tmp_path / "manifest.json").read_text())


def test_a_manifest_is_valid_by_its_schema(written):
    jsonschema.Draft202012Validator.check_schema(manifest_schema())
    jsonschema.validate(written, manifest_schema())


@pytest.mark.parametrize(
    "harm",
    [
        lambda manifest: manifest.update(version=VERSION - 1),
        lambda manifest: manifest.update(more=1),
        lambda manifest: manifest["rounds"]["0"].pop("columns"),
        lambda manifest: manifest["rounds"]["1"]["result"].update(wanted="many"),
        lambda manifest: manifest["rounds"]["1"]["shards"][0].pop("sha256"),
    ],
)
def test_what_is_no_manifest_is_not_valid(harm, written):
    harm(written)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, manifest_schema())
    if written["version"] == VERSION:
        assert read_manifest(json.dumps(written).encode(), "run") is None


def test_every_key_is_described():
    schema = manifest_schema()
    for model in (schema, *(schema["$defs"][name] for name in OURS)):
        assert model["description"]
        for name, field in model["properties"].items():
            assert field.get("description"), (model["title"], name)


def test_the_version_of_the_schema_is_that_of_the_code():
    assert Manifest().version == VERSION == manifest_schema()["properties"]["version"]["const"]
