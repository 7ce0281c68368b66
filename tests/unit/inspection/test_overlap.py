"""The images that two sets share."""

import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from rsf_dist.inspection import overlap
from rsf_dist.inspection.overlap import shared_files, shared_pixels
from rsf_dist.runtime.progress import Progress


def images(*levels: int) -> torch.Tensor:
    return torch.stack([torch.full((3, 4, 5), level, dtype=torch.uint8) for level in levels])


def test_equal_images_are_paired_with_the_first_of_the_other_set():
    assert shared_pixels(images(1, 2, 2, 3), images(9, 2, 3, 2)) == [(1, 1), (3, 2), (1, 3)]


def test_equal_middle_rows_alone_are_not_equal_images():
    ours = images(1, 2)
    theirs = ours.clone()
    theirs[0, 0, 0, 0] = 77
    assert shared_pixels(ours, theirs) == [(1, 1)]


def test_only_images_with_an_equal_middle_row_are_read_whole(monkeypatch):
    read: list[torch.Size] = []
    digest = overlap._digest
    monkeypatch.setattr(overlap, "_digest", lambda pixels: (read.append(pixels.shape), digest(pixels))[1])
    shared_pixels(images(*range(50)), images(*range(49, 99)))
    assert sum(shape == (3, 4, 5) for shape in read) == 2


class Watched(torch.Tensor):
    """Images that note how many of them are read together."""

    together: ClassVar[list[int]] = []

    def __getitem__(self, key):
        if isinstance(key, tuple):
            Watched.together.append(len(key[0]))
        return super().__getitem__(key)


def test_few_images_are_read_together_since_each_may_map_two_mebibytes_of_a_file():
    Watched.together.clear()
    shared_pixels(images(*range(100)).as_subclass(Watched), images(100))
    assert sum(Watched.together) == 100
    assert max(Watched.together) * 2 <= 64  # MiB


def test_sets_of_different_sizes_share_nothing():
    assert shared_pixels(images(1), images(1)[..., :4]) == []


def written(folder: Path, **contents: bytes) -> list[Path]:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


def test_files_of_equal_content_are_paired_whatever_their_names(tmp_path):
    ours = written(tmp_path / "a", x=b"cat", y=b"dog", z=b"mouse")
    theirs = written(tmp_path / "b", q=b"dog", r=b"fox")
    assert shared_files(ours, theirs, Progress()) == [(1, 0)]


def test_files_of_a_size_that_the_other_set_lacks_are_not_read(tmp_path, monkeypatch):
    ours, theirs = written(tmp_path / "a", x=b"12", y=b"345"), written(tmp_path / "b", z=b"6789")
    monkeypatch.setattr(overlap, "_file_digest", lambda path: pytest.fail(f"{path} was read"))
    assert shared_files(ours, theirs, Progress()) == []


def test_links_to_one_file_are_one_image(tmp_path):
    (file,) = written(tmp_path / "a", x=b"cat")
    (tmp_path / "link").symlink_to(file)
    shutil.copy(file, tmp_path / "copy")
    assert shared_files([file], [tmp_path / "link", tmp_path / "copy"], Progress()) == [(0, 0), (0, 1)]
