"""Image sets: where images are read from (`rsf_dist.data.sources`)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from rsf_dist.config.base import Count, NonEmptyStr, PositiveInt, Size, StrictModel
from rsf_dist.config.kinds import Kinds, kind_of


def _all_different(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = [name for number, name in enumerate(names) if name in names[:number]]
    if repeated:
        raise ValueError(f"classes must differ, and {repeated[0]} is there twice")
    return names


_TAKEN = (
    *("image", "label", "base_index", "boxes", "box_label", "box_crowd", "mask", "component"),
    *("round", "chunk", "index", "log_ratio", "accept_key", "weight", "ledger"),
)
"""The columns of rows that have a meaning of their own."""


def _free_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for number, name in enumerate(names):
        if name in _TAKEN:
            raise ValueError(f"{name} is a column of rows already: give the file's column another name")
        if name in names[:number]:
            raise ValueError(f"{name} is there twice")
    return names


Attributes = Annotated[tuple[NonEmptyStr, ...], AfterValidator(_free_names)]
ClassNames = Annotated[tuple[str, ...], AfterValidator(_all_different)]
Channels = Literal[1, 3]
Share = Annotated[float, Field(ge=0, le=1)]
Resize = Literal["cover", "fit", "stretch"]
Bits = Literal[8, 10, 12, 14, 16]


class ImagesKind(StrictModel):
    """The base of every kind of image set, with or without labels.

    Keys that an image set leaves out are taken from `data`. A kind of your own derives from this class, names itself in
    `kind`, is registered by `@IMAGE_KINDS.register`, and has a function registered by `@list_images.register`
    (`rsf_dist.data.sources`).
    """

    classifies: ClassVar[bool] = True
    """False where images come with boxes or masks, and not with one label each."""

    takes_all_below: ClassVar[bool] = False
    """True where every image file that appears below `root` joins the set."""

    kind: str
    """The kind's name."""
    start: Count = 0
    """Number of images to skip, in the order in which `limit` takes them."""
    limit: PositiveInt | None = None
    """Largest number of images to take, after `start`; only these are decoded. Images are taken in the order of the
    source; where this order is class after class, one of each class in turn. null means all."""
    classes: ClassNames = ()
    """The classes' names, in the order of their labels. A listed class may have no image. Empty means the names that
    the files or folders give. The names of other labelled sets are matched to the source's, whatever their order; of a
    target domain they are not looked at."""
    size: Size | None = None
    """[height, width] in pixels that images are brought to, by `resize`. One number means a square. null means that
    they stay as they are, which requires images of one size."""
    resize: Resize = "cover"
    """How images are brought to `size`. `cover`: scaled to cover it, and cropped to its middle. `fit`: scaled to fit
    into it, with black bars. `stretch`: scaled in each direction by itself."""
    channels: Channels | None = None
    """Channels of the images: 1 (grey) or 3 (RGB). null means those of the source; a file of any mode has 3."""


IMAGE_KINDS = Kinds[ImagesKind]("images")
"""The kinds that an image set can have."""

ImagesConfig = Annotated[ImagesKind, IMAGE_KINDS]
"""The type of a field that holds an image set of any registered kind."""


@IMAGE_KINDS.register
class DigitsConfig(ImagesKind):
    """scikit-learn's 1,797 scans of digits, 8 x 8, from its wheel."""

    kind: Literal["digits"] = "digits"
    """Chooses this source."""


@IMAGE_KINDS.register
class IdxConfig(ImagesKind):
    """The files of MNIST and Fashion-MNIST."""

    kind: Literal["idx"] = "idx"
    """Chooses this source."""
    root: NonEmptyStr
    """Path of the folder with the files, or of the one that torchvision keeps them in."""
    split: Literal["train", "test"] = "train"
    """The files to read."""


@IMAGE_KINDS.register
class NpzConfig(ImagesKind):
    """An npz file with arrays `images` and, if labelled, `labels`, and `classes` for their names."""

    kind: Literal["npz"] = "npz"
    """Chooses this source."""
    root: NonEmptyStr
    """Path of the file."""
    attributes: Attributes = ()
    """Further arrays of numbers, one an image. Proposals of kind `dataset` carry them as columns of these names, which
    ratios, verifiers and rewards of your own can look at."""


class FilesKind(ImagesKind):
    """The base of the kinds whose images are files, which may have 16 bits a channel."""

    bits: Bits | None = None
    """Bits that are used in files with 16 bits a channel: 12 if the brightest pixel can be 4095, as many cameras and
    microscopes write them. null means as many as the file's type says; images that are all dark are refused then."""


@IMAGE_KINDS.register
class ImageFolderConfig(FilesKind):
    """A folder of images, or of one sub-folder a class, in every format that Pillow reads.

    Images are found at any depth and through links. Hidden files are left out, and what systems leave behind
    (Thumbs.db, __MACOSX, @eaDir, …). Classes are ordered as words, 10 before 2; `classes` gives them another order.
    Images are turned upright as their EXIF says. What is transparent is black. In a target domain the names of
    sub-folders do not matter, and `limit` takes from the sub-folders in turn.
    """

    takes_all_below: ClassVar[bool] = True

    kind: Literal["image_folder"] = "image_folder"
    """Chooses this source."""
    root: NonEmptyStr
    """Path of the folder."""


class BoxesKind(FilesKind):
    """The base of the kinds whose images have boxes."""

    classifies: ClassVar[bool] = False

    min_visible: Share = 0.25
    """Smallest share of a box's area that `size` must leave within the image; a box with less of it is left out. Boxes
    are scaled, shifted and clipped along with the pixels."""


@IMAGE_KINDS.register
class CocoConfig(BoxesKind):
    """Images with boxes, or masks, in a JSON file of COCO's format.

    Category ids may have gaps: classes are known by name, and numbered in the order of ids. Objects of categories that
    `classes` leaves out are left out. Regions with `iscrowd` are not trained on, and ignored in evaluation.
    """

    kind: Literal["coco"] = "coco"
    """Chooses this source."""
    root: NonEmptyStr
    """Path of the folder that the file names are relative to."""
    annotations: NonEmptyStr
    """Path of the JSON file."""
    masks: bool = False
    """Whether to read the segmentations as masks, a class for each pixel, instead of boxes. Where objects overlap, the
    later annotation counts."""
    background: NonEmptyStr | None = "background"
    """For `masks`: the class of pixels that no annotation covers. It comes first, before the categories, unless one
    has its name; `classes`, where given, must list it. null means that these pixels are ignored."""


@IMAGE_KINDS.register
class VocConfig(BoxesKind):
    """Images with boxes in one XML file each, as PASCAL VOC keeps them, numbering pixels from 1.

    Images are in JPEGImages and XML files in Annotations, or both are in one folder. An image without an XML file has
    no objects. Classes are the names that occur in all XML files, in alphabetical order.
    """

    takes_all_below: ClassVar[bool] = True

    kind: Literal["voc"] = "voc"
    """Chooses this source."""
    root: NonEmptyStr
    """Path of the folder."""
    split: NonEmptyStr | None = None
    """Name of a list of images: `train` is ImageSets/Main/train.txt. null means all images."""
    difficult: Literal["ignore", "keep"] = "ignore"
    """What becomes of objects marked `difficult`. `ignore`: not trained on, and ignored in evaluation. `keep`: as any
    other object."""


@IMAGE_KINDS.register
class YoloConfig(BoxesKind):
    """Images with boxes in one text file each, as YOLO keeps them, described by data.yaml.

    An image without a text file has no objects. Of a segment, a polygon, the box around it is taken.
    """

    kind: Literal["yolo"] = "yolo"
    """Chooses this source."""
    root: NonEmptyStr
    """Path of data.yaml, or of the folder that it lies in."""
    split: NonEmptyStr = "train"
    """Key of data.yaml that names the images: train, val or test."""


@IMAGE_KINDS.register
class MaskFolderConfig(FilesKind):
    """A folder of images and one of masks: PNG files of the same names, a class's number for each pixel.

    Pixels of 255 are ignored. Of a mask with a palette, the numbers count and not the colours.
    """

    classifies: ClassVar[bool] = False
    takes_all_below: ClassVar[bool] = True

    kind: Literal["mask_folder"] = "mask_folder"
    """Chooses this source."""
    root: NonEmptyStr
    """Path of the folder with the images."""
    masks: NonEmptyStr
    """Path of the folder with the masks. Without `classes` each of them is read once, to find the largest number."""


@IMAGE_KINDS.register
class TableConfig(FilesKind):
    """A table of paths of image files, with or without a column of labels.

    Its name ends in .csv, .tsv or .txt (separated by commas, semicolons, tabs or `|`; the first line names the columns)
    or in .jsonl or .ndjson (one JSON object a line). Labels are words, which are classes in alphabetical order or in
    that of `classes`, or the classes' whole numbers.
    """

    kind: Literal["table"] = "table"
    """Chooses this source."""
    file: NonEmptyStr
    """Path of the table."""
    root: NonEmptyStr | None = None
    """Path of the folder that paths in the table start from. They may not lead out of it; absolute paths may lie
    anywhere. null means the table's folder."""
    path_column: NonEmptyStr | None = None
    """Column of the paths. null means the first that is there of path, file, filename, file_name, filepath, file_path,
    image, image_path."""
    label_column: str | None = None
    """Column of the labels. null means the first that is there of label, class, target, or else unlabelled. Empty text
    means that no labels are read."""
    attributes: Attributes = ()
    """Further columns of numbers. Proposals of kind `dataset` carry them as columns of these names, which ratios,
    verifiers and rewards of your own can look at."""


@IMAGE_KINDS.register
class ParquetConfig(FilesKind):
    """Parquet files with a column of images, and with or without a column of labels.

    Images are the bytes of image files, alone or as Hugging Face's struct of `bytes` and `path`; or uint8 tensors
    [channels, height, width] or [height, width], of fixed shape or as nested lists. Labels are words, whole numbers, or
    Hugging Face's ClassLabel, whose names are the classes. Only row groups with images that are taken are read.
    """

    kind: Literal["parquet"] = "parquet"
    """Chooses this source."""
    root: NonEmptyStr
    """Path or URI (s3://, gs://, …) of a file, or of a folder: its files named *.parquet, in the order of their
    paths."""
    image_column: NonEmptyStr | None = None
    """Column of the images. null means the first that is there of image, img, picture, photo, pixels."""
    label_column: str | None = None
    """Column of the labels. null means the first that is there of label, labels, class, target, or else unlabelled.
    Empty text means that no labels are read."""
    attributes: Attributes = ()
    """Further columns of numbers. Proposals of kind `dataset` carry them as columns of these names, which ratios,
    verifiers and rewards of your own can look at."""


@IMAGE_KINDS.register
class TorchvisionDatasetConfig(ImagesKind):
    """A data set of torchvision.datasets with one class an image.

    Labels are read without decoding where the data set lists them; otherwise its images are read once for them.
    """

    kind: Literal["torchvision"] = "torchvision"
    """Chooses this source."""
    name: NonEmptyStr
    """Name of the class in torchvision.datasets, e.g. CIFAR10."""
    root: NonEmptyStr | None = None
    """Path of the folder that the class takes as `root`. null is for classes that take none."""
    split: NonEmptyStr | None = None
    """The class's `split` or `image_set`; train or test where it takes `train`. null means the class's default."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the class."""
    download: bool = False
    """Let torchvision download files that are not there. Otherwise nothing is downloaded."""


def _known_kind(kind: str) -> str:
    if IMAGE_KINDS.find(kind) is None:
        raise ValueError(f"must be one of {', '.join(map(kind_of, IMAGE_KINDS.models))}")
    return kind


def _no_uri(path: str) -> str:
    if "://" in path:
        raise ValueError("must be a folder, since images are mapped from files, and not a URI")
    return path


class DataConfig(StrictModel):
    """Defaults for every image set; for kind `shifted`, for its `base`. A key given in an image set itself wins.

    An image set takes the keys that its kind has. The resolved config.yaml spells every image set out, so that `data`
    has no effect there, but for `cache`.
    """

    kind: Annotated[NonEmptyStr, AfterValidator(_known_kind)] | None = None
    """Default of the image sets' `kind`. null means none."""
    root: NonEmptyStr | None = None
    """Default of the image sets' `root`. null means none."""
    classes: ClassNames | None = None
    """Default of the image sets' `classes`. null means none."""
    size: Size | None = None
    """Default of the image sets' `size`. null means none."""
    resize: Resize | None = None
    """Default of the image sets' `resize`. null means none."""
    channels: Channels | None = None
    """Default of the image sets' `channels`. null means none."""
    bits: Bits | None = None
    """Default of the image sets' `bits`. null means none."""
    cache: Annotated[NonEmptyStr, AfterValidator(_no_uri)] | None = None
    """Path of a folder that runs share, for decoded images: whichever run is first packs them there, and every process
    maps them. They are found again by the files' paths, sizes and times and by the settings; nothing removes them. A
    node that does not see the folder fetches the files once. null means the run's own directory, or TMPDIR where that
    is a URI. Only image sets of 64 MiB or more, or from 256 MiB of files or more, are packed; others are read into
    memory."""
