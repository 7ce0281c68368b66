"""Images that are decoded on the cluster, packed once, and mapped by its processes."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
import yaml
from PIL import Image
from processes import own_processes

import rsf_dist as rsf
from rsf_dist.builders.image_packing import packing_for
from rsf_dist.builders.inputs import load_inputs
from rsf_dist.cluster.decoding import read_on_cluster
from rsf_dist.cluster.fetching import FromNode
from rsf_dist.config.images import ImageFolderConfig
from rsf_dist.config.load import parse_config
from rsf_dist.data import packing
from rsf_dist.data.images import load_images
from rsf_dist.data.mapped import MappedTensor, Reference
from rsf_dist.data.packed import Beside, open_packed, write_packed
from rsf_dist.data.packing import Packing
from rsf_dist.runs import pipeline
from rsf_dist.runtime.progress import Progress

pytestmark = pytest.mark.ray
for module in (sys.modules[__name__],):
    ray.cloudpickle.register_pickle_by_value(module)


@pytest.fixture
def everything_is_large(monkeypatch) -> None:
    monkeypatch.setattr(packing, "LEAST_DECODED", 1)


def photographs(root: Path, count: int, size: int, seed: int = 0) -> Path:
    """Write JPEG files of four classes."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        path = root / f"class {number % 4}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR).save(path)
    return root


def test_the_cluster_decodes_in_order(everything_is_large, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(packing, "BLOCK_BYTES", 5 * 3 * 16 * 16)
    source = ImageFolderConfig(root=str(photographs(tmp_path / "images", 23, 16)))
    on_cluster = Packing([tmp_path / "cache"], read_blocks=read_on_cluster)
    found, expected = load_images(source, packing=on_cluster), load_images(source)
    assert isinstance(found.images, MappedTensor)
    assert torch.equal(found.images, expected.images)
    assert found.digest() == expected.digest()

    # What is wrong is named as in this process.
    broken = tmp_path / "images" / "class 1" / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(rsf.InputError, match="is not a readable image: it is text") as caught:
        load_images(source, packing=on_cluster)
    assert caught.value.field == str(broken)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]) == 1


@dataclass(frozen=True)
class Elsewhere:
    """A fetch from a folder that goes by another name on its node."""

    fetch: FromNode
    folder: str

    def __call__(self, folder: str, to: Path) -> None:
        self.fetch(self.folder, to)


def test_a_task_fetches_what_its_node_does_not_see(tmp_path) -> None:
    pixels = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    write_packed(tmp_path, [{"image": pixels}], Beside([str(number) for number in range(6)]))
    packed = open_packed(tmp_path)
    fetch = Elsewhere(FromNode(ray.get_runtime_context().get_node_id()), str(tmp_path))
    hidden = Reference("/nowhere", packed.columns["image"]._reference.identity, fetch)
    images = packed.columns["image"][1:]
    images._reference = hidden

    @ray.remote(num_cpus=0)
    def look(images: torch.Tensor) -> tuple[str, list[int]]:
        return type(images).__name__, images[:, 0, 0, 0].tolist()

    assert ray.get([look.remote(images) for _ in range(4)]) == [("MappedTensor", [4, 8, 12, 16, 20])] * 4
    assert ray.get(look.remote(ray.put(images))) == ("MappedTensor", [4, 8, 12, 16, 20])


def test_rows_are_the_same_from_packed_images(small_run: dict, everything_is_large, tmp_path, monkeypatch) -> None:
    small_run["source"] = {"kind": "image_folder", "root": str(tmp_path / "domain" / "test"), "channels": 1}
    small_run["data"] = {"cache": str(tmp_path / "cache")}
    del small_run["evaluation"], small_run["pretrain"]
    packed = pipeline.sample(parse_config(small_run)).report.rounds[0]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2  # source and target
    monkeypatch.setattr(packing, "LEAST_DECODED", 2**40)
    in_memory = pipeline.sample(
        parse_config(small_run | {"output": str(tmp_path / "other"), "data": {}})
    ).report.rounds[0]
    assert packed.fingerprint == in_memory.fingerprint
    digests = [(tmp_path / name / "inputs" / "digests.json").read_text() for name in ("run", "other")]
    assert digests[0] == digests[1]


@dataclass
class Peaks:
    """The largest private memory (USS), in MiB, of a command and of its largest actor."""

    driver: float = 0.0
    actor: float = 0.0
    seconds: float = 0.0

    def look(self, driver: psutil.Process) -> None:
        self.driver = max(self.driver, _own_mib(driver))
        for actor in own_processes("ray::MapWorker", driver.pid):
            self.actor = max(self.actor, _own_mib(actor))


def _own_mib(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().uss / 2**20
    except psutil.Error:  # it has ended
        return 0.0


def command(config: dict[str, Any], folder: Path) -> Peaks:
    """Run `rsf sample` on a cluster of its own, and look at its memory all the time."""
    path = folder / f"{Path(config['output']).name}.yaml"
    path.write_text(yaml.safe_dump(config))
    words = [sys.executable, "-c", "from rsf_dist.cli import main; main()", "sample", str(path)]
    peaks, started = Peaks(), time.monotonic()
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        while running.poll() is None:
            peaks.look(psutil.Process(running.pid))
            time.sleep(0.25)
        assert running.returncode == 0, running.communicate()[1]
    finally:
        running.kill()
    peaks.seconds = time.monotonic() - started
    return peaks


@pytest.mark.soak
def test_memory_does_not_grow_with_the_source(tmp_path, record_property) -> None:
    """3 GiB of decoded images. In memory each process would hold them all."""
    large = photographs(tmp_path / "large", 20_500, 224)  # of 147 KiB each
    photographs(tmp_path / "small", 100, 224, seed=1)
    target = photographs(tmp_path / "target", 60, 224, seed=2)
    config = {
        "target": {"kind": "image_folder", "root": str(target)},
        "proposal": {"parameters": {"rotation": {"uniform": [-0.5, 0.5]}}},
        "ratio": {"network": {"width": 4}, "optimizer": {"steps": 2, "batch_size": 8}, "num_proposals": 50},
        "envelope": {"kind": "budget", "acceptance": 0.5, "num_pilot": 128},
        "sampling": {"num_accepted": 256, "chunk_size": 64, "pool": {"min_actors": 2, "max_actors": 2}},
        "model": {"width": 4},
    }

    def peaks(root: Path, output: str) -> Peaks:
        source = {"kind": "image_folder", "root": str(root)}
        return command(config | {"source": source, "output": str(tmp_path / output)}, tmp_path)

    few, many = peaks(tmp_path / "small", "few"), peaks(large, "many")
    assert list((tmp_path / "many" / "inputs" / "packed").glob("*/image.bin"))
    for name in ("driver", "actor"):
        more = getattr(many, name) - getattr(few, name)
        record_property(f"{name}_mib", f"{getattr(few, name):.0f} + {more:.0f}")
        assert more <= 150

    # A second command on the same source starts within 3 s of one on 100 images.
    seconds = {}
    for name, root in (("few", tmp_path / "small"), ("many", large)):
        source = {"kind": "image_folder", "root": str(root)}
        again = parse_config(config | {"source": source, "output": str(tmp_path / name)})
        before = time.process_time()
        with packing_for(again, Progress(), join=None) as packed:
            load_inputs(again, packed).digests()
        seconds[name] = time.process_time() - before
    record_property("seconds_to_load_again", f"{seconds['few']:.2f} and {seconds['many']:.2f}")
    assert seconds["many"] - seconds["few"] < 3
