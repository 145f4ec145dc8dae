"""The data section: where raw images come from, how they become shards, and how shards become batches."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from detcore.config.sampling import Sampling, Subset, UniformSampling
from detcore.config.section import Count, CountOrZero, Fraction, NonNegative, Section
from detcore.config.stores import Store, checked_place
from detcore.config.transforms import Transform, check_order

MAX_IMAGE_PIXELS = 2**28 // 3
"""A quarter of a gigabyte as RGB; PIL warns above it."""


class Digits(Section):
    """Scenes composed of scikit-learn's handwritten digits; made on the spot."""

    type: Literal["digits"] = "digits"
    train: Count = 1200
    val: Count = 200
    test: Count = 200
    size: Annotated[int, Field(ge=32)] = 160
    """Height and width of a scene, in pixels."""
    max_digits: Count = 12
    seed: CountOrZero = 0
    """Of the scenes; training's own seed leaves the data as it is."""


class Archive(Section):
    url: str
    sha256: str
    folder: str = "."
    """Where it is unpacked, below the root."""
    inner: tuple[str, ...] = ()
    """Archives that lie in it; each is unpacked where it lies and then removed."""


class Archives(Section):
    """Archives fetched over HTTP, checked, then unpacked."""

    type: Literal["archives"] = "archives"
    archives: tuple[Archive, ...]


class Files(Section):
    """Single files below one base URL, with the SHA-256 of each in a list."""

    type: Literal["files"] = "files"
    base_url: str
    sums: str
    """A file as sha256sum writes it, relative to conf/: a hash and a path a line."""


Source = Annotated[Digits | Archives | Files, Field(discriminator="type")]


class Split(Section):
    """Where a split's annotations and images lie, relative to the root."""

    annotations: str
    """COCO, LVIS: the JSON file. VOC: the list below ImageSets/Main. YOLO, DOTA: the folder of label files. Semantic,
    Cityscapes: the folder of PNGs and polygons. Open Images: the CSV of boxes. CVAT: the XML file."""
    images: str
    instances: str | None = None
    """coco_panoptic: the JSON file of the things' boxes and masks; None takes them from the panoptic segments."""


class SemanticPNGs(Section):
    """One PNG of class ids an image, whose name is the image's with another end; 255 is not labelled."""

    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=255)]
    first_id: Literal[0, 1] = 0
    """The id of the first class in the files; with 1, as ADE20K's own files have it, 0 is not labelled."""
    image_suffix: str = ".jpg"
    """The end of the images' names, such as _leftImg8bit.png in Cityscapes."""
    label_suffix: str = ".png"
    """The end of the PNGs' names, such as _gtFine_labelTrainIds.png in Cityscapes."""


class DataConfig(Section):
    name: str
    """Becomes part of names of runs, folders and registered models: letters, digits, '_', '-' and blanks within."""
    format: Literal[
        "coco",
        "voc",
        "yolo",
        "coco_panoptic",
        "coco_rotated",
        "dota",
        "semantic",
        "lvis",
        "cityscapes",
        "open_images",
        "cvat",
    ]
    root: str
    """The raw folder."""
    source: Source | None = None
    """Where the raw folder comes from when it is not there; None means it is yours."""
    splits: dict[Literal["train", "val", "test"], Split] | None = None
    """None looks for the usual names below the root."""
    angles: Literal["degrees_ccw", "degrees_cw", "radians_ccw", "radians_cw"] | None = None
    """coco_rotated: unit and sense of the angles, as one sees the image; None means degrees_ccw."""
    ignore: tuple[str, ...] = ()
    """Categories that are no class: their objects are crowd regions of every class."""
    semantic: SemanticPNGs | None = None
    """What the PNGs of format semantic hold."""
    absent_images: Literal["refuse", "skip"] = "refuse"
    """Images that the annotations list but that are not there: an error, or left out and counted."""
    val_fraction: Fraction = 0.1
    """Taken from train where the data has no val split."""
    test_fraction: Fraction = 0.1
    shards: str
    """Of the prepared data: a folder, or s3://bucket/folder, gs://bucket/folder, http(s)://host/folder (to read)."""
    store: Store = Store()
    """How shards are read and written where they are at a URL."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """What training does with an image whose bytes are damaged: stop, or leave its row empty, say so and count it.
    Evaluation always stops: figures over fewer images are others."""
    samples_per_shard: Count = 1000
    max_corrupt_fraction: Fraction = 0.01
    """Unreadable images are skipped and counted; above this share of a split, prepare stops."""
    max_image_pixels: Annotated[int, Field(ge=1, le=2 * MAX_IMAGE_PIXELS)] = MAX_IMAGE_PIXELS
    """Files whose header says that they have more are refused as unreadable before they are decoded: a small file may
    fill the memory. PIL itself refuses twice the default."""
    min_box_size: NonNegative = 1e-3
    """Boxes whose clipped width or height is not above it are dropped and counted, in pixels."""
    min_visible: Fraction = 0.1
    """An object of which less than this share is left in a training image is no target: of its box, or of its outline
    where others were pasted over it."""
    sampling: Sampling = UniformSampling()
    """How often an epoch has each training image."""
    train_subset: Subset | None = None
    """Trains on a part of the images that take part; None means all."""
    min_objects: CountOrZero = 0
    """Training images with fewer objects take no part; 1 is Detectron2's FILTER_EMPTY_ANNOTATIONS."""
    min_keypoints: CountOrZero = 0
    """Training images with fewer labelled keypoints take no part: Detectron2's MIN_KEYPOINTS_PER_IMAGE."""
    train_transforms: tuple[Transform, ...]
    """An image in training goes through them in this order; docs/augmentation.md lists them."""
    test_transforms: tuple[Transform, ...]
    unmixed_last_steps: CountOrZero = 0
    """In so many steps at the end of training, mosaic, mixup and copy_paste are left out."""
    num_buckets: Count = 10
    """At most so many batch shapes. COCO's images at 640 to 800 are padded by 20% with 4, by 11% with 8, 9% with 10."""
    size_divisor: Count = 32
    threads: CountOrZero = 0
    """Loader threads of each worker; 0 takes the cores that the worker has."""
    decode: Literal["cpu", "cuda"] = "cpu"
    """Where JPEG is decoded. cuda: by nvJPEG if the batches are on a GPU, else on the CPU with a warning. Its pixels
    differ from PIL's by a few grey levels, more at edges of colour."""
    prefetch_bytes: CountOrZero = 2**30
    """What each worker's batches that are made ahead may take up, with the images that they are made from; 0 makes none
    ahead. On a GPU, most of it is the GPU's memory."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        # MLflow refuses / : . % and quotes in the names of registered models, which are made of this one.
        if not re.fullmatch(r"\w(?:[\w -]*[\w-])?", name):
            raise ValueError(
                f"{name!r} is no name for data: only letters, digits, '_', '-' and blanks within, and no '-' first"
            )
        return name

    @field_validator("shards")
    @classmethod
    def _known_place(cls, place: str) -> str:
        return checked_place(place)

    @model_validator(mode="after")
    def _suits_the_format(self) -> Self:
        for key, format in (("angles", "coco_rotated"), ("semantic", "semantic")):
            if getattr(self, key) is not None and self.format != format:
                raise ValueError(f"{key} is for format {format}, not for {self.format}")
        if self.format == "semantic" and self.semantic is None:
            raise ValueError("format semantic needs semantic.classes, the names of the classes")
        if self.ignore and self.format not in ("coco", "coco_rotated"):
            raise ValueError(f"ignore is for the formats coco and coco_rotated, not for {self.format}")
        for name, split in (self.splits or {}).items():
            if split.instances is not None and self.format != "coco_panoptic":
                raise ValueError(f"splits.{name}.instances is for format coco_panoptic, not for {self.format}")
        return self

    @model_validator(mode="after")
    def _pipelines(self) -> Self:
        try:
            check_order(self.train_transforms)
        except ValueError as error:
            raise ValueError(f"train_transforms: {error}") from error
        if not self.test_transforms or self.test_transforms[0].type not in ("resize_shortest_edge", "resize_fixed"):
            raise ValueError("test_transforms must begin with a resize: resize_shortest_edge or resize_fixed")
        for transform in self.test_transforms[1:]:
            raise ValueError(f"test_transforms: only a resize is possible, got {transform.type!r}")
        if self.test_transforms[0].type == "resize_shortest_edge" and len(self.test_transforms[0].sizes) != 1:
            raise ValueError("test_transforms: resize_shortest_edge needs exactly one size")
        return self

    @model_validator(mode="after")
    def _leaves_training_images(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                f"val_fraction {self.val_fraction} + test_fraction {self.test_fraction} leave no training images"
            )
        return self
