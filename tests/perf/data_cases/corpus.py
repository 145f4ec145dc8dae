"""A split of coco_mini's files, over and over: enough of them that batches are as full as in COCO itself."""

from collections.abc import Iterator
from pathlib import Path

from detcore.config import DataConfig, load
from detcore.data import Sample, ShardedSplit, prepare, write_split

SHORT_SIDES, LONG_SIDE = (640, 672, 704, 736, 768, 800), 1333
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def data_config(root: Path, folder: Path, *overrides: str) -> DataConfig:
    """coco_mini in `folder`, resized and flipped as Detectron2's COCO recipes do, for loaders of one thread."""
    resize = f"{{type: resize_shortest_edge, sizes: {list(SHORT_SIDES)}, max_size: {LONG_SIDE}}}"
    transforms = f"data.train_transforms=[{resize}, {{type: horizontal_flip}}]"
    places = [f"data.root={root}", f"data.shards={folder}", "data.threads=1"]
    return load(["data=coco_mini", transforms, *places, *overrides]).data


def repeated(root: Path, folder: Path, *, images: int) -> ShardedSplit:
    """At least so many images: each of coco_mini's val split equally often."""
    prepare(data_config(root, folder / "once"), seed=0, progress=False)
    once = ShardedSplit.open(folder / "once", "val")
    times = -(-images // len(once))

    def samples() -> Iterator[Sample]:
        for number in range(times * len(once)):
            index = number % len(once)
            objects = once.objects(index)
            yield Sample(
                image=once.read(index),
                boxes_xyxy=objects.boxes_xyxy,
                labels=objects.labels,
                polygons=objects.polygons,
                crowd=objects.crowd,
                file_name=f"{number // len(once)}/{once.file_names[index]}",
            )

    write_split(samples(), folder / "repeated", split="train", categories=once.categories)
    once.close()
    return ShardedSplit.open(folder / "repeated", "train")
