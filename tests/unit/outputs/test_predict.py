"""Predictions of a saved model on images as users have them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from elsewhere import PLACE, Elsewhere
from PIL import Image
from stored_runs import class_folders

import rsf_dist as rsf
from rsf_dist.config.model import ModelConfig
from rsf_dist.data.decoding import decode
from rsf_dist.data.resizing import resized
from rsf_dist.data.sources import npz
from rsf_dist.errors import InputError
from rsf_dist.models.networks import ExpectedImages, Network
from rsf_dist.models.spec import NetworkSpec, save_network
from rsf_dist.outputs import given_images
from rsf_dist.outputs import predict as predict_module
from rsf_dist.outputs.predict import PredictOptions, predict
from rsf_dist.report import predicted_images
from rsf_dist.runtime.device import fastest_device
from rsf_dist.runtime.progress import Progress

CLASSES = ("cat", "dog")
USUAL = ExpectedImages((10, 12))


class Lines(Progress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def model_in(folder: Path, images: ExpectedImages | None = USUAL, **changes: Any) -> Network:
    """Save a small network with weights drawn at random, and load it again."""
    spec = NetworkSpec(
        **{"config": ModelConfig(width=4), "num_outputs": 2, "channels": 3, "classes": CLASSES} | changes, images=images
    )
    network = spec.build(seed=1).eval()
    brightness = torch.linspace(0, 255, 50).byte()[:, None, None, None].expand(-1, spec.channels, 10, 12)
    with torch.no_grad():  # a new head takes all images for one class; now for the one or the other by brightness
        logits = network(brightness)
        network.head.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
    save_network(network, spec, folder)
    return rsf.load_model(folder)


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def flat(folder: Path, count: int = 9, size: tuple[int, int] = (10, 12)) -> Path:
    """Write images without labels."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    for number in range(count):
        dark = generator.integers(1, 256)
        Image.fromarray(generator.integers(dark, size=(*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def probabilities(model: Network, paths: list[Path], size=(10, 12), resize="cover") -> torch.Tensor:
    """What the model says about files, computed by hand."""
    images = torch.stack([resized(decode(path, model.channels), size, resize) for path in paths])
    return model(images).double().softmax(1)


def refused(*arguments: object, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        predict(*(one if isinstance(one, list) else str(one) for one in arguments), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_flat_folder_without_labels(tmp_path):
    model, photos = model_in(tmp_path / "model"), flat(tmp_path / "photos")
    found = predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"))
    expected = probabilities(model, sorted(photos.iterdir()))
    rows = read_csv(tmp_path / "out")
    assert list(rows[0]) == ["id", "class", "probability"]
    assert [row["id"] for row in rows] == [f"{number}.png" for number in range(9)]
    assert [row["class"] for row in rows] == [CLASSES[label] for label in expected.argmax(1).tolist()]
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.max(1).values.tolist(), abs=2e-6)
    assert (found.num_images, found.accuracy, found.num_labelled) == (9, None, 0)
    assert found.counts == {name: sum(row["class"] == name for row in rows) for name in CLASSES}
    assert set(found.counts) == set(CLASSES)
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 200


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_all_probabilities(format, tmp_path):
    model, photos = model_in(tmp_path / "model"), flat(tmp_path / "photos")
    options = PredictOptions(format, all_probabilities=True)
    predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"), options=options)
    if format == "csv":
        found = [[float(row["p(cat)"]), float(row["p(dog)"])] for row in read_csv(tmp_path / "out")]
    else:
        lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
        found = [[json.loads(line)["probabilities"][name] for name in CLASSES] for line in lines]
    assert torch.tensor(found).allclose(probabilities(model, sorted(photos.iterdir())).float(), atol=2e-6)


def test_accuracy_is_of_the_labels_that_folders_give_matched_by_name(tmp_path):
    """The model's classes are in another order than the alphabet's, and one image lies in the wrong folder."""
    model, photos = model_in(tmp_path / "model", classes=("dog", "cat")), flat(tmp_path / "photos")
    paths = sorted(photos.iterdir())
    predicted = [model.classes[label] for label in probabilities(model, paths).argmax(1).tolist()]
    for number, (path, name) in enumerate(zip(paths, predicted, strict=True)):
        name = {"cat": "dog", "dog": "cat"}[name] if number == 4 else name
        (photos / name).mkdir(exist_ok=True)
        path.rename(photos / name / path.name)
    found = predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"))
    assert (found.num_labelled, found.num_right) == (9, 8)
    assert found.accuracy == 8 / 9
    rows = read_csv(tmp_path / "out")
    assert [row["id"] for row in rows if row["label"] != row["class"]] == [
        f"{'cat' if predicted[4] == 'dog' else 'dog'}/4.png"
    ]


def test_images_of_classes_that_the_model_does_not_know(tmp_path):
    model_in(tmp_path / "model")
    partly, none = class_folders(tmp_path / "partly", ("cat", "owl")), class_folders(tmp_path / "none", ("a", "b"))
    lines = Lines()
    found = predict(str(tmp_path / "model"), str(partly), str(tmp_path / "out"), progress=lines)
    assert (found.num_images, found.num_labelled) == (8, 4)
    assert "images of owl, which the model does not know, do not count in the accuracy" in lines.said
    assert {row["label"] for row in read_csv(tmp_path / "out")} == {"cat", "owl"}
    found = predict(str(tmp_path / "model"), str(none), str(tmp_path / "none-out"), progress=lines)
    assert (found.num_images, found.accuracy) == (8, None)
    assert "labels a, b are none of the model's classes, cat, dog: no accuracy" in lines.said
    assert "label" not in read_csv(tmp_path / "none-out")[0]


def test_folders_that_are_no_classes_are_read_without_labels(tmp_path):
    model_in(tmp_path / "model")
    for part in ("train", "test"):
        flat(tmp_path / "photos" / part, 3)
    lines = Lines()
    assert (
        predict(str(tmp_path / "model"), str(tmp_path / "photos"), str(tmp_path / "out"), progress=lines).num_images
        == 6
    )
    assert any(line.startswith("no labels are read: root=test: is a data set's part") for line in lines.said)
    beside = class_folders(tmp_path / "beside")
    Image.new("RGB", (12, 10)).save(beside / "stray.png")
    assert predict(str(tmp_path / "model"), str(beside), str(tmp_path / "stray")).num_images == 9


@pytest.mark.parametrize("resize", ["cover", "fit", "stretch"])
def test_images_of_any_size_are_brought_to_the_models_as_in_training(resize, tmp_path):
    model = model_in(tmp_path / "model", ExpectedImages((10, 12), resize))
    photos = flat(tmp_path / "photos", 3, size=(40, 20))
    Image.open(photos / "0.png").resize((33, 17)).convert("L").save(photos / "3.jpg")  # another size, grey
    lines = Lines()
    predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"), progress=lines)
    expected = probabilities(model, sorted(photos.iterdir()), resize=resize)
    found = [float(row["probability"]) for row in read_csv(tmp_path / "out")]
    assert found == pytest.approx(expected.max(1).values.tolist(), abs=2e-6)
    assert f"images of another size are brought to 10 x 12 pixels ({resize})" in lines.said


def test_bits_of_the_training_images_hold_for_predictions(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(3).integers(4096, size=(10, 12), dtype=np.uint16)
    Image.fromarray(pixels).save(photos / "a.png")
    twelve = model_in(tmp_path / "model", ExpectedImages((10, 12), bits=12), channels=1)
    predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"))
    eight = torch.from_numpy(np.round(pixels / (4095 / 255)).astype(np.uint8))[None, None]
    expected = twelve(eight).double().softmax(1).max().item()
    assert float(read_csv(tmp_path / "out")[0]["probability"]) == pytest.approx(expected, abs=2e-6)


def test_a_model_that_does_not_say_its_size(tmp_path):
    model_in(tmp_path / "model", None)
    photos = flat(tmp_path / "photos", 2)
    lines = Lines()
    predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"), progress=lines)
    assert "the model does not say which size its images had: they stay as they are" in lines.said
    for name in ("other.png", "00.png"):  # at the end, and as the first
        Image.new("RGB", (8, 8)).save(photos / name)
        for options in (PredictOptions(), PredictOptions(skip_unreadable=True)):
            told = refused(tmp_path / "model", photos, tmp_path / "no", options=options)
            assert "differs in size" in told
            assert told.endswith("e.g. size=224")
        (photos / name).rename(tmp_path / name)
    (tmp_path / "00.png").rename(photos / "00.png")
    assert predict(str(tmp_path / "model"), str(photos), str(tmp_path / "yes"), ["size=9"]).num_images == 3
    model_in(tmp_path / "resizing", None, config=ModelConfig(width=4, input_size=(6, 6)))
    assert predict(str(tmp_path / "resizing"), str(photos), str(tmp_path / "more")).num_images == 3


def deep(folder: Path, *brightest: int) -> Path:
    """Write an image with 16 bits a pixel for each of these brightest pixels."""
    folder.mkdir()
    for number, level in enumerate(brightest):
        Image.fromarray(np.full((10, 12), level, np.uint16)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("skip", [False, True])
def test_whether_images_of_16_bits_use_all_of_them_is_told_from_all_together(skip, tmp_path, monkeypatch):
    monkeypatch.setattr(given_images, "_BLOCK_IMAGES", 2)
    model_in(tmp_path / "model", channels=1)
    options = PredictOptions(skip_unreadable=skip)
    sound = deep(tmp_path / "sound", 60_000, 60_000, 50_000, 900, 800)  # the last block is dark
    (sound / "2.png").write_bytes(b"" if skip else (sound / "1.png").read_bytes())
    found = predict(str(tmp_path / "model"), str(sound), str(tmp_path / "out"), options=options)
    assert found.num_images == 5 - skip
    dark = deep(tmp_path / "dark", 700, 900, 600, 900, 800)
    told = refused(tmp_path / "model", dark, tmp_path / "no", options=options)
    assert "the brightest pixel of all 5 images with 16 bits is 900, of 65535" in told
    assert not (tmp_path / "no").exists()
    assert predict(str(tmp_path / "model"), str(dark), str(tmp_path / "ten"), ["bits=10"]).num_images == 5


def test_a_large_compressed_array_is_read_in_one_pass(tmp_path, monkeypatch):
    model_in(tmp_path / "model")
    pixels = np.random.default_rng(5).integers(256, size=(20, 3, 10, 12), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=pixels, labels=np.arange(20) % 2, brightness=np.arange(20))
    tables, opened = [], []
    monkeypatch.setattr(predict_module, "contact_sheet", lambda images: b"")
    monkeypatch.setattr(given_images, "_BLOCK_IMAGES", 2)
    predict(str(tmp_path / "model"), str(tmp_path / "a.npz"), str(tmp_path / "small"))
    monkeypatch.setattr(npz, "LARGE_BYTES", 1)
    read = npz._opened_images
    monkeypatch.setattr(npz, "_opened_images", lambda path: opened.append(path) or read(path))
    for name, keys in (("large", []), ("beside", ["attributes=[brightness]"]), ("part", ["start=3", "limit=8"])):
        opened.clear()
        predict(str(tmp_path / "model"), str(tmp_path / "a.npz"), str(tmp_path / name), keys)
        assert len(opened) == 3  # its header, its first image, and all others
        tables.append(read_csv(tmp_path / name))
    assert tables[0] == tables[1] == read_csv(tmp_path / "small")
    assert tables[2] == tables[0][3:11]


def write_parquet(path: Path, photos: list[Path], labels: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": [photo.read_bytes() for photo in photos], "label": labels}), path)
    return path


def test_whatever_holds_images_is_read(tmp_path):
    model_in(tmp_path / "model")
    photos = flat(tmp_path / "photos", 4)
    paths, labels = sorted(photos.iterdir()), ["cat", "dog", "dog", "cat"]
    pixels = torch.stack([decode(path, 3) for path in paths]).numpy()
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([1, 0, 0, 1]), classes=np.array(["dog", "cat"]))
    write_parquet(tmp_path / "a.parquet", paths, labels)
    write_parquet(tmp_path / "parts" / "b.parquet", paths, labels)
    table = "path,label\n" + "".join(f"photos/{path.name},{label}\n" for path, label in zip(paths, labels, strict=True))
    (tmp_path / "a.csv").write_text(table)
    sources = [tmp_path / name for name in ("a.npz", "a.parquet", "parts", "a.csv")]
    sources.append((tmp_path / "a.parquet").as_uri())
    probability = set()
    for number, source in enumerate(sources):
        found = predict(str(tmp_path / "model"), str(source), str(tmp_path / f"out-{number}"))
        assert (found.num_images, found.num_labelled) == (4, 4)
        probability.add((found.num_right, *(row["probability"] for row in read_csv(tmp_path / f"out-{number}"))))
    assert len(probability) == 1


def write_idx(folder: Path, split: str, count: int) -> None:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(count).integers(256, size=(count, 10, 12), dtype=np.uint8)
    for name, shape, data in (("images-idx3", pixels.shape, pixels), ("labels-idx1", (count,), pixels[:, 0, 0] % 2)):
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
        (folder / f"{split}-{name}-ubyte").write_bytes(header + data.tobytes())


def test_folders_of_other_files_than_images_are_recognised(tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "contact_sheet", lambda images: b"")
    model_in(tmp_path / "model")
    for split, count in (("train", 4), ("t10k", 3)):
        write_idx(tmp_path / "idx", split, count)
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "a.npz", images=np.zeros((5, 3, 10, 12), np.uint8))
    write_parquet(tmp_path / "splits" / "train-0.parquet", sorted(flat(tmp_path / "photos", 2).iterdir()), CLASSES)
    write_parquet(tmp_path / "splits" / "test-0.parquet", sorted((tmp_path / "photos").iterdir()), CLASSES)
    labelled = flat(tmp_path / "labelled", 6)
    (labelled / "labels.csv").write_text("file,label\n" + "".join(f"{number}.png,cat\n" for number in range(6)))
    lines, test = Lines(), "idx/t10k-images-idx3-ubyte"
    for number, (place, keys, images, labels) in enumerate(
        [
            ("idx", [], 4, 0),
            ("idx", ["split=test"], 3, 0),
            (test, [], 3, 0),
            ("idx", ["classes=[dog, cat]"], 4, 4),
            ("arrays", [], 5, 0),
            ("splits", [], 4, 4),
            ("labelled", [], 6, 6),
        ]
    ):
        found = predict(
            str(tmp_path / "model"), str(tmp_path / place), str(tmp_path / f"out-{number}"), keys, progress=lines
        )
        assert (found.num_images, found.num_labelled) == (images, labels)
    assert lines.said.count("the images of split train are taken; name another one by split=…") == 2
    table = labelled / "labels.csv"
    assert f"the images that {table} lists are taken; kind=image_folder takes all in the folder" in lines.said


def test_several_sets_in_a_folder_are_taken_as_one_only_where_they_are_images_alone(tmp_path):
    model_in(tmp_path / "model")
    flat(tmp_path / "tables", 2)
    for name in ("a", "b"):
        (tmp_path / "tables" / f"{name}.csv").write_text("file,label\n0.png,cat\n")
        for part in ("images", "masks"):
            flat(tmp_path / "masks" / part / name, 2)
    assert predict(str(tmp_path / "model"), str(tmp_path / "tables"), str(tmp_path / "out")).num_images == 2
    told = refused(tmp_path / "model", tmp_path / "masks", tmp_path / "no")
    assert told.startswith(f"PATH={tmp_path / 'masks'}: holds 2 image sets: a, b; name one of them")


def test_a_table_that_needs_keys_is_still_a_table(tmp_path):
    model_in(tmp_path / "model")
    flat(tmp_path / "photos", 2)
    (tmp_path / "list.csv").write_text("picture,kind\n0.png,cat\n1.png,dog\n")
    keys = ["path_column=picture", "label_column=kind", f"root={tmp_path / 'photos'}"]
    found = predict(str(tmp_path / "model"), str(tmp_path / "list.csv"), str(tmp_path / "out"), keys)
    assert (found.num_images, found.num_labelled) == (2, 2)


def test_one_file_and_keys_of_an_image_set(tmp_path):
    model_in(tmp_path / "model")
    photos = flat(tmp_path / "photos")
    one = predict(str(tmp_path / "model"), str(photos / "3.png"), str(tmp_path / "one"))
    assert (one.num_images, read_csv(tmp_path / "one")[0]["id"]) == (1, "3.png")
    assert predict(str(tmp_path / "model"), str(photos), str(tmp_path / "two"), ["start=1", "limit=2"]).num_images == 2
    assert [row["id"] for row in read_csv(tmp_path / "two")] == ["1.png", "2.png"]
    np.savez(tmp_path / "numbers.npz", images=np.zeros((2, 10, 12, 3), np.uint8).transpose(0, 3, 1, 2), labels=[0, 1])
    keys = ["classes=[dog, cat]"]
    named = predict(str(tmp_path / "model"), str(tmp_path / "numbers.npz"), str(tmp_path / "three"), keys)
    assert named.num_labelled == 2
    assert [row["label"] for row in read_csv(tmp_path / "three")] == ["dog", "cat"]


def test_an_unreadable_image_is_named_or_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(given_images, "_BLOCK_IMAGES", 4)
    model = model_in(tmp_path / "model")
    photos = flat(tmp_path / "photos")
    expected = probabilities(model, sorted(photos.iterdir())).max(1).values.tolist()
    for number in (0, 2, 5, 6, 7, 8):  # the first, one of a block, all of a block
        (photos / f"{number}.png").write_bytes(b"not an image" * (number > 0))
    told = refused(tmp_path / "model", photos, tmp_path / "out")
    assert told.startswith(f"{photos}/0.png=0 bytes: is not a readable image: it is empty")
    assert not (tmp_path / "out").exists()
    lines, options = Lines(), PredictOptions(skip_unreadable=True)
    found = predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"), options=options, progress=lines)
    assert (found.num_images, found.num_unreadable) == (3, 6)
    assert lines.said[-1].startswith(f"passed over 6 unreadable images; the first: {photos}/0.png=0 bytes: is not")
    rows = read_csv(tmp_path / "out")
    assert [row["id"] for row in rows] == ["1.png", "3.png", "4.png"]
    assert [float(row["probability"]) for row in rows] == pytest.approx([expected[n] for n in (1, 3, 4)], abs=2e-6)
    for number in (1, 3, 4):
        (photos / f"{number}.png").write_bytes(b"")
    assert "none of them can be read" in refused(tmp_path / "model", photos, tmp_path / "no", options=options)


def test_batches_and_blocks_change_nothing(tmp_path, monkeypatch):
    model_in(tmp_path / "model")
    photos, tables = class_folders(tmp_path / "photos"), []
    for number, (batch, block) in enumerate([(64, 4096), (3, 4096), (64, 2), (1, 1)]):
        monkeypatch.setattr(given_images, "_BLOCK_IMAGES", block)
        predict(
            str(tmp_path / "model"), str(photos), str(tmp_path / str(number)), options=PredictOptions(batch_size=batch)
        )
        tables.append([row["id"] + row["class"] + row["label"] for row in read_csv(tmp_path / str(number))])
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert len(tables[0]) == 8


def test_a_gpu_predicts_where_there_is_one(tmp_path, monkeypatch):
    model_in(tmp_path / "model")
    photos = class_folders(tmp_path / "photos")
    predict(str(tmp_path / "model"), str(photos), str(tmp_path / "here"))
    monkeypatch.setattr(predict_module, "fastest_device", lambda: PLACE)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # whose views keep count of something that Held has not
    with Elsewhere() as mode:
        options = PredictOptions(batch_size=3)
        predict(str(tmp_path / "model"), str(photos), str(tmp_path / "there"), options=options)
    assert read_csv(tmp_path / "there") == read_csv(tmp_path / "here")
    assert [shape for shape in mode.sent if shape[1:] == (3, 10, 12)] == [
        (1, 3, 10, 12),
        (3, 3, 10, 12),
        (3, 3, 10, 12),
        (1, 3, 10, 12),
    ]
    assert mode.crossed == [(1, 2), (3, 2), (3, 2), (1, 2)]  # logits alone
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fastest_device().type == "cuda"


def test_few_images_are_in_memory_at_once(tmp_path, monkeypatch):
    model_in(tmp_path / "model")
    photos, sizes = flat(tmp_path / "photos", 12), []
    monkeypatch.setattr(given_images, "_BLOCK_BYTES", 3 * 10 * 12 * 5)
    seen = predict_module._Predictor._probabilities
    monkeypatch.setattr(predict_module._Predictor, "_probabilities",
                        lambda self, images: sizes.append(len(images)) or seen(self, images))  # fmt: skip
    predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"))
    assert sizes == [1, 5, 5, 1]


def test_the_contact_sheet_shows_images_spread_over_the_set_with_their_truth(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(predict_module, "contact_sheet", lambda images: shown.extend(images) or b"")
    monkeypatch.setattr(predict_module, "_SHOWN", 3)
    model_in(tmp_path / "model")
    photos = class_folders(tmp_path / "photos")
    predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"))
    rows = read_csv(tmp_path / "out")
    assert [(one.predicted, one.truth) for one in shown] == [(rows[n]["class"], rows[n]["label"]) for n in (0, 3, 7)]
    assert np.array_equal(shown[1].image, decode(photos / "cat" / "cat-3.png", 3).numpy())


def test_names_that_no_font_or_formula_knows_are_drawn(recwarn):
    image = np.zeros((1, 8, 8), np.uint8)
    names = ["$x_{", "猫", "a\nb\x1b[31m", "x" * 300, ""]
    sheet = predicted_images.contact_sheet([predicted_images.PredictedImage(image, name, 0.5, "t") for name in names])
    assert sheet[:4] == b"\x89PNG"
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_what_is_no_model_and_what_is_no_image(tmp_path):
    photos = flat(tmp_path / "photos", 2)
    assert "holds no model.json" in refused(tmp_path / "absent", photos)
    save_network(
        NetworkSpec(ModelConfig(name="mlp", width=4), 2, 5).build(),
        NetworkSpec(ModelConfig(name="mlp", width=4), 2, 5),
        tmp_path / "mlp",
    )
    assert "takes rows of numbers" in refused(tmp_path / "mlp", photos)
    model_in(tmp_path / "model")
    for path, told in [
        (tmp_path / "nowhere", "PATH="),
        (tmp_path / "mlp", "holds no images, but 1 .json, e.g. model.json"),
        (tmp_path / "model" / "model.json", "is neither an image nor a table"),
    ]:
        assert told in refused(tmp_path / "model", path, tmp_path / "out")
    for keys, told in [
        (["limit"], "override=limit: must be key=value"),
        (["limt=3"], "limt=3: unknown key"),
        (["kind=jpeg"], "kind=jpeg: is no kind of image set"),
        (["size=0"], "size"),
        (["start=5"], "leaves none of 2 images"),
    ]:
        assert told in refused(tmp_path / "model", photos, tmp_path / "out", keys)
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    assert "holds no images; name" in refused(tmp_path / "model", tmp_path / "empty", tmp_path / "out")


def test_a_model_that_fails_or_has_no_finite_logits(tmp_path):
    photos = flat(tmp_path / "photos", 2)
    model = model_in(tmp_path / "model")
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    save_network(model, NetworkSpec(ModelConfig(width=4), 2, 3, CLASSES), tmp_path / "model")
    assert "not finite" in refused(tmp_path / "model", photos, tmp_path / "out")
    assert "exists already" in refused(tmp_path / "model", photos, photos)


def test_a_network_of_ones_own_runs_only_from_a_folder_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "nets_to_predict.py").write_text(
        "import torch\n"
        "def build(num_outputs, channels):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(360, num_outputs))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    model_in_code = NetworkSpec(ModelConfig(name="nets_to_predict:build"), 2, 3, CLASSES)
    save_network(model_in_code.build(), model_in_code, tmp_path / "model")
    photos = flat(tmp_path / "photos", 2)
    assert "--code-folder" in refused(tmp_path / "model", photos, tmp_path / "out")
    begun = tmp_path / "own_code"
    begun.mkdir()
    (begun / "config.yaml").write_text("{}")
    assert refused(begun, photos, tmp_path / "out").endswith(f"train it: rsf train {begun}")
    options = PredictOptions(code_folder=str(tmp_path / "code"))
    assert predict(str(tmp_path / "model"), str(photos), str(tmp_path / "out"), options=options).num_images == 2
    told = refused(tmp_path / "model", photos, tmp_path / "no", ["size=20"], options=options)
    assert "cannot take images of [channels, height, width] = [3, 20, 20]" in told


def test_memory_that_runs_out_names_the_batch_size(tmp_path, monkeypatch):
    model_in(tmp_path / "model")
    photos = flat(tmp_path / "photos", 9)

    def forward(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("rsf_dist.models.networks.ImageNetwork.forward", forward)
    assert "--batch-size=1: images of [3, 10, 12] do not fit" in refused(tmp_path / "model", photos, tmp_path / "out")
