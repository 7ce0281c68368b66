"""The names of source images that a run keeps: written where they are missing, and never those of other images."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from bad_input.case import sound_run

from rsf_dist.builders.inputs import load_inputs
from rsf_dist.config.load import parse_config
from rsf_dist.errors import InputError
from rsf_dist.runs import pipeline
from rsf_dist.runs.made_with import made_with
from rsf_dist.runs.reuse import Basis
from rsf_dist.runs.run_folder import DIGESTS, INPUTS, stored_digests
from rsf_dist.runs.source_names import NAMES, SourceNames, kept_names, stored_names
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.run_store import RunStore


@pytest.fixture
def begun(tmp_path):
    """A run that has written what its stages depend on, and its images."""
    config = parse_config(sound_run(tmp_path))
    inputs, store = load_inputs(config), RunStore(config.output)
    basis = Basis(config, inputs.digests(), made_with(config))
    pipeline.write_basis(store, basis, inputs)
    return store, basis, inputs


def forget_names(store: RunStore, digests: dict[str, str]) -> None:
    """Leave the digests alone, as earlier versions wrote them."""
    store.commit_folder(INPUTS, lambda folder: (folder / DIGESTS).write_text(json.dumps(digests)))


def file_of(store: RunStore, name: str) -> Path:
    return Path(store.path(f"{INPUTS}/{name}"))


def test_a_run_that_goes_on_writes_the_names_that_it_lacks(begun):
    store, basis, inputs = begun
    assert kept_names(store) == SourceNames.of(inputs.source)
    forget_names(store, basis.digests)
    assert kept_names(store) is None
    pipeline.write_basis(store, basis, inputs)
    assert kept_names(store) == SourceNames.of(inputs.source)
    assert stored_digests(store) == basis.digests


def test_its_second_half_writes_them_too(begun, monkeypatch):
    store, basis, inputs = begun
    forget_names(store, basis.digests)
    monkeypatch.setattr(pipeline, "connect", lambda *given: contextlib.nullcontext())
    monkeypatch.setattr(pipeline, "check_cluster", lambda *given, **options: None)
    monkeypatch.setattr(pipeline, "seed_runs", lambda *given: [])
    monkeypatch.setattr(pipeline, "write_report", lambda *given: None)
    pipeline.train(store.uri)
    assert kept_names(store) == SourceNames.of(inputs.source)


def test_damaged_names_are_written_again_once_the_images_are_known_to_be_the_same(begun):
    store, basis, inputs = begun
    file_of(store, NAMES).write_text('{"classes": ["wrong"], "ids": []}')
    assert kept_names(store) is None
    assert stored_digests(store) == basis.digests  # so that other images are refused
    pipeline.write_basis(store, basis, inputs)
    assert kept_names(store) == SourceNames.of(inputs.source)


def test_names_outlive_damaged_digests(begun):
    store, basis, inputs = begun
    names = SourceNames(("kept",), ("a",))
    store.commit_folder(INPUTS, lambda folder: (names.save(folder), (folder / DIGESTS).write_text("{}")))
    file_of(store, DIGESTS).unlink()
    assert stored_digests(store) is None
    pipeline.write_basis(store, basis, inputs)
    assert (kept_names(store), stored_digests(store)) == (names, basis.digests)


def test_a_pool_of_images_of_its_own_is_compared_and_has_the_classes_of_the_source(tmp_path):
    arrays = {"images": np.random.default_rng(1).integers(256, size=(30, 8, 8), dtype=np.uint8)}
    source = {"kind": "npz", "root": str(tmp_path / "source.npz"), "classes": ["b", "a"]}
    pool = {"kind": "npz", "root": str(tmp_path / "pool.npz"), "classes": ["a", "b"]}
    np.savez(tmp_path / "source.npz", **arrays, labels=np.arange(30) % 2)
    np.savez(tmp_path / "pool.npz", images=255 - arrays["images"][:20], labels=np.arange(20) % 2)
    raw = {
        "source": source,
        "target": source,
        "proposal": {"kind": "dataset", "images": pool},
        "sampling": {"top_k": 5},
    }
    config = parse_config({"output": str(tmp_path / "run"), **raw})
    inputs, store = load_inputs(config), RunStore(config.output)
    forget_names(store, inputs.digests())
    found = stored_names(store, store, config, Progress())
    assert found == SourceNames.of(inputs.proposed_from) == SourceNames(("b", "a"), tuple(map(str, range(20))))
    np.savez(tmp_path / "pool.npz", images=arrays["images"][:20], labels=np.arange(20) % 2)
    assert stored_names(store, store, config, Progress()) == SourceNames(("b", "a"), ())


def test_without_classes_of_the_configuration_or_a_model_the_images_must_be_the_same(tmp_path):
    config = parse_config(sound_run(tmp_path))
    store = RunStore(config.output)
    forget_names(store, {"source": "0" * 64})
    with pytest.raises(InputError, match="differ from those that the run began with; restore them"):
        stored_names(store, store, config, Progress())
