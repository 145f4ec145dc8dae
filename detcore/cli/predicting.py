"""Commands that look at images with a model."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import detcore
from detcore.cli.commands import FOUND_FAULTS, TERMINAL, Commands, json_option, write_json

if TYPE_CHECKING:
    from detcore.config import TTAConfig
    from detcore.inference import Prediction, Predictor
    from detcore.inference.sources import ImageSource, Video

_FORMATS = ("coco", "yolo", "cvat", "csv")
_OVERLAP = 0.2

_PREDICT = """\
  detcore predict digits-mask-rcnn@champion scene.jpg
  detcore predict runs/digits/model photos/ 'scans/*.png' --out drawn --score 0.7
  detcore predict bccd-faster-rcnn/2 photos/ --classes RBC,WBC --class-score WBC=0.8 --json found.json
  detcore predict bccd-faster-rcnn/2 photos/ --format cvat --out to_correct
  detcore predict bccd-faster-rcnn/2 slide.tif --tile 1024 --overlap 0.2 --out drawn
  detcore predict bccd-faster-rcnn/2 clip.mp4 --frame-stride 2 --out drawn.mp4
  detcore predict bccd-faster-rcnn/2 photos/ --tta --tta-sizes 480,640,800"""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    predict = commands.add("predict", "find objects in images and videos", _predict, examples=_PREDICT)
    predict.add_argument("model", metavar="MODEL", help="a registered name, a published folder, or an exported file")
    predict.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="an image, a folder of images, a glob, an address (http, https), a video, a stream (rtsp), "
        "or the number of a camera",
    )
    predict.add_argument(
        "--out", metavar="PATH", type=Path, help="a folder for the images and videos, drawn on; or one video file"
    )
    predict.add_argument(
        "--format", choices=_FORMATS, help="write what was found into the folder --out, instead of drawing it"
    )
    json_option(predict)
    predict.add_argument("--score", type=float, default=0.5, help="leave out detections below it (default: 0.5)")
    predict.add_argument("--classes", metavar="NAMES", help="only these, such as person,car")
    predict.add_argument(
        "--class-score", metavar="NAME=SCORE", action="append", help="another --score for one class; once for each"
    )
    predict.add_argument("--batch-size", type=int, default=8, help="images at once (default: 8)")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    predict.add_argument(
        "--trust", action="store_true", help="MODEL may run code of its own: for a .pt2 that you or friends exported"
    )
    predict.add_argument("--tile", metavar="PIXELS", type=int, help="cut huge images into tiles of this side")
    predict.add_argument(
        "--overlap", metavar="SHARE", type=float, help=f"of a tile, that the next one shows too (default: {_OVERLAP})"
    )
    predict.add_argument(
        "--frame-stride", metavar="N", type=int, help="look at every Nth frame of a video (default: 1)"
    )
    _declare_tta(predict)


def _declare_tta(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("--tta", action="store_true", help="look at several sizes, and mirrored, and merge: slower")
    predict.add_argument(
        "--tta-sizes",
        metavar="PIXELS",
        help="shortest sides, such as 640,800,960 (default: 0.75, 1 and 1.25 times the model's)",
    )
    predict.add_argument("--tta-no-flip", action="store_true", help="do not look at mirrored images")


def _predict(options: argparse.Namespace) -> int:
    from detcore.data.progress import track
    from detcore.inference.sources import expand

    sources = expand(options.sources)[0]  # a misspelt path is told before a model is loaded
    tta, chosen = _tta(options), _chosen(options, sources)
    predictor = detcore.load(options.model, device=options.device, trusted=options.trust)
    if tta is not None:
        predictor = predictor.augmented(tta)
    unreadable = 0

    def skip(_: "ImageSource | Video", error: ValueError) -> None:
        nonlocal unreadable
        unreadable += 1
        print(f"detcore predict: skipped {' '.join(str(error).split())}", file=sys.stderr)

    table = sys.stderr if options.json == TERMINAL else sys.stdout
    found = predictor.stream(sources, batch_size=options.batch_size, on_unreadable=skip, **chosen)
    with ExitStack() as stack:
        outputs = [stack.enter_context(output) for output in _outputs(options, predictor, sources)]
        total = _number_of_images(sources, chosen["frame_stride"])
        shown = total != 1 and sys.stdout.isatty()
        for prediction in track(found, "looking at images", total=total, shown=shown):
            print(f"{prediction.name}: {prediction.in_words()}", file=table)
            for output in outputs:
                output.add(prediction)
    if unreadable:
        print(f"detcore predict: {unreadable} of {len(sources)} images could not be read", file=sys.stderr)
        return FOUND_FAULTS
    return 0


def _chosen(options: argparse.Namespace, sources: "list[ImageSource | Video]") -> dict[str, Any]:
    """What `Predictor.stream` is told; an option without an effect is an error."""
    from detcore.inference.sources import Video

    if options.overlap is not None and options.tile is None:
        raise ValueError("--overlap is a setting of --tile: give that too")
    if options.frame_stride is not None and not any(isinstance(source, Video) for source in sources):
        raise ValueError("--frame-stride: there is no video among the sources")
    class_scores = {}
    for words in options.class_score or ():
        name, _, score = words.rpartition("=")
        try:
            class_scores[name] = float(score)
        except ValueError:
            raise ValueError(f"--class-score {words}: give a class and a score, such as person=0.7") from None
    return {
        "score_threshold": options.score,
        "class_scores": class_scores,
        "classes": None if options.classes is None else [name.strip() for name in options.classes.split(",")],
        "tile": options.tile,
        "overlap": _OVERLAP if options.overlap is None else options.overlap,
        "frame_stride": 1 if options.frame_stride is None else options.frame_stride,
    }


def _outputs(options: argparse.Namespace, predictor: "Predictor", sources: "list[ImageSource | Video]") -> list[Any]:
    """Context managers that take predictions; checked before hours of work, not after."""
    from detcore.inference.pictures import PictureWriter, is_video_file
    from detcore.inference.sources import Video
    from detcore.inference.writing import common_folder, writer_of

    outputs: list[Any] = []
    if options.json is not None:
        outputs.append(_JsonOutput(options.json))
    if options.format is not None:
        if options.out is None:
            raise ValueError(f"--format {options.format}: say with --out which folder it is written to")
        writer = writer_of(
            options.format,
            options.out,
            categories=predictor.labels,
            keypoint_names=predictor.keypoint_names,
            skeleton=predictor.skeleton,
            root=common_folder(sources),
        )
        outputs.append(writer)
    elif options.out is not None:
        if is_video_file(options.out) and not (len(sources) == 1 and isinstance(sources[0], Video)):
            raise ValueError(f"--out {options.out}: is for one video; name a folder")
        outputs.append(PictureWriter(options.out))
    return outputs


class _JsonOutput:
    """All predictions in one JSON list, written at the end, also where an error or Ctrl-C ends the run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: list[dict[str, Any]] = []

    def add(self, prediction: "Prediction") -> None:
        self._rows.append(prediction.to_dict())

    def __enter__(self) -> "_JsonOutput":
        return self

    def __exit__(self, *error: object) -> None:
        write_json(self._rows, self._name)


def _number_of_images(sources: "list[ImageSource | Video]", stride: int) -> int | None:
    """None where a video does not say how long it is."""
    from detcore.inference.sources import Video
    from detcore.inference.video import num_frames

    counts = [num_frames(source, stride=stride) if isinstance(source, Video) else 1 for source in sources]
    return None if None in counts else sum(count for count in counts if count is not None)


def _tta(options: argparse.Namespace) -> "TTAConfig | None":
    from detcore.config import TTAConfig

    if not options.tta:
        if options.tta_sizes or options.tta_no_flip:
            raise ValueError("--tta-sizes and --tta-no-flip are settings of --tta: give that too")
        return None
    sizes = (options.tta_sizes or "").replace(",", " ").split()
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(f"--tta-sizes {options.tta_sizes}: give sides in pixels, such as 640,800,960")
    return TTAConfig(sizes=tuple(map(int, sizes)), flip=not options.tta_no_flip)
