"""Commands about data: what is wrong with it, what it looks like, what is in it."""

import argparse
import sys
from pathlib import Path

from detcore.cli.commands import FOUND_FAULTS, Answer, Commands

_PICTURES = (".png", ".jpg", ".webp")

_DATA = """\
  detcore data check photos/
  detcore data stats photos/ --html statistics.html
  detcore data show data=digits --draws 3 --plain"""
_CHECK = """\
  detcore data check photos/
  detcore data check photos/ --format coco --json findings.json
  detcore data check data=coco_mini data.root=DIR"""
_STATS = """\
  detcore data stats photos/
  detcore data stats data=coco_mini data.root=DIR --html statistics.html
  detcore data stats data/shards/digits --json"""
_SHOW = """\
  detcore data show photos/
  detcore data show data=coco_mini data.root=DIR --class person --draws 3 --plain
  detcore data show data/shards/digits --split val --num 24 --png samples.png
  detcore data show photos/ 'data.train_transforms=[{type: resize_fixed, height: 320, width: 320}]'"""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    data = commands.group("data", "check, draw and count data before training on it", examples=_DATA)
    show = data.add(
        "show", "draw samples with their annotations, as training sees them", _show, examples=_SHOW, answers=True
    )
    _about_data(show)
    show.add_argument("--split", default="train", help="train, val or test (default: train)")
    show.add_argument("--num", type=int, default=12, help="samples (default: 12)")
    show.add_argument("--draws", type=int, default=1, help="augmented pictures of each (default: 1)")
    show.add_argument("--plain", action="store_true", help="also the picture as it is stored")
    show.add_argument("--class", dest="classes", action="append", default=[], metavar="NAME", help="only with this one")
    show.add_argument("--epoch", type=int, default=0, help="whose draws to show (default: 0)")
    show.add_argument("--seed", type=int, help="the training's (default: the configuration's)")
    show.add_argument("--html", metavar="FILE", type=Path, default=Path("samples.html"), help="default: samples.html")
    show.add_argument("--png", metavar="FILE", type=Path, help="also all samples on one picture")

    summary = "look for what is wrong with raw data, and say how to mend it; exit code 1 if there are errors"
    check = data.add("check", summary, _check, examples=_CHECK, answers=True)
    _about_data(check)

    stats = data.add(
        "stats", "count objects, classes and sizes, and compare the splits", _stats, examples=_STATS, answers=True
    )
    _about_data(stats)
    stats.add_argument("--html", metavar="FILE", type=Path, help="write a page with plots")


def _about_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        metavar="DIR | data=NAME | KEY=VALUE",
        nargs="+",
        help="a folder, raw or of shards; or conf/data's name",
    )
    parser.add_argument("--format", help="of a raw folder (default: as its files tell)")


def _show(options: argparse.Namespace) -> Answer:
    from detcore.data.html_page import writable
    from detcore.data.locate import locate
    from detcore.data.some import some_samples
    from detcore.inference.sample_sheets import samples_page, samples_sheet
    from detcore.inference.samples import show_samples

    writable(options.html, "--html")
    if options.png is not None:
        writable(options.png, "--png")
        if options.png.suffix.lower() not in _PICTURES:
            raise ValueError(f"--png {options.png}: name it {' or '.join(f'*{end}' for end in _PICTURES)}")
    seed = [] if options.seed is None else [f"seed={options.seed}"]
    config = locate([*options.words, *seed], format=options.format)
    with some_samples(config, options.split, num=options.num, classes=options.classes) as (split, whole):
        samples = list(
            show_samples(
                split,
                config.data,
                batch_size=config.engine.batch_size // config.engine.accumulate,
                seed=config.seed,
                num=options.num,
                epoch=options.epoch,
                draws=options.draws,
                plain=options.plain,
                classes=options.classes,
            )
        )
        if not samples:
            raise ValueError(f"{config.data.name}: no sample of {options.split} has {' or '.join(options.classes)}")
        about = f"{len(samples)} of {len(split):,} samples, seed {config.seed}"
    if not whole:
        about = (
            f"{len(samples)} samples, seed {config.seed}, prepared for this page alone: once all are, "
            "training draws other numbers for them"
        )
    title = f"{config.data.name}: {options.split}"
    options.html.write_text(samples_page(samples, title=title, about=about), encoding="utf-8")
    written = [options.html]
    if options.png is not None:
        samples_sheet(samples).save(options.png)
        written.append(options.png)
    if not whole:
        print("detcore data show: not prepared, so a few raw images were taken", file=sys.stderr)
    files = [str(file) for file in written]
    facts = {"files": files, "split": options.split, "samples": len(samples)}
    return Answer(facts=facts, text=f"{' and '.join(files)}: {len(samples)} samples of {options.split}")


def _check(options: argparse.Namespace) -> Answer:
    from detcore.data.checking import check
    from detcore.data.locate import locate

    report = check(locate(options.words, format=options.format), progress=True)
    return Answer(facts=report.to_dict(), text=report.table(), code=FOUND_FAULTS if report.errors else 0)


def _stats(options: argparse.Namespace) -> Answer:
    from detcore.data.html_page import writable
    from detcore.data.locate import locate
    from detcore.data.statistics import describe
    from detcore.data.statistics.report import statistics_page, terminal_tables

    if options.html is not None:
        writable(options.html, "--html")
    statistics, columns = describe(locate(options.words, format=options.format))
    if options.html is not None:
        options.html.write_text(statistics_page(statistics, columns), encoding="utf-8")
    return Answer(facts=statistics.to_dict(), text=terminal_tables(statistics))
