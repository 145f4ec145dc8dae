"""What was measured, for a terminal."""

from rich.console import Group
from rich.table import Table

from detcore.bench.prediction import PredictionReport
from detcore.bench.training import TrainingReport


def training_shown(report: TrainingReport) -> Group:
    """The measurements, and below them the parts of a step."""
    passes = f"{report.precision}, CUDA graphs" if report.cuda_graphs else report.precision
    heading = (
        f"{report.model}: training on {report.device}, torch {report.torch}, {passes}\n"
        f"{report.batch_size} images a step, {report.data}, {len(report.buckets)} buckets, "
        f"padding {report.padding:.1%}\nmedians of {report.rounds} rounds of {report.steps} steps\n"
    )
    numbers = _table("", "")
    for name, value in _training_rows(report):
        numbers.add_row(name, value)
    parts = _table("part", "share", "ms")
    for part, share in report.shares.items():
        parts.add_row(part, f"{share:.1%}", f"{share * report.step_ms:.1f}")
    note = (
        f"\nParts are divided as in plain passes, which are not captured and take {report.plain_step_ms:.1f} "
        "ms a step; waiting is measured in the steps themselves."
    )
    return Group(heading, numbers, "", parts, note, *_warnings(report))


def prediction_shown(report: PredictionReport) -> Group:
    """A row for each way."""
    heading = (
        f"{report.model}: predicting on {report.device}, torch {report.torch}, {report.precision}\n"
        f"an image of {report.image} pixels as {report.padded}, {report.detections} detections in it\n"
        f"medians of {report.calls} calls\n"
    )
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("part", "way"):
        shown.add_column(title, no_wrap=True)
    for title in ("batch", "ms", "images/s", "first call s"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in report.rows:
        numbers = (f"{row.latency_ms:.2f}", f"{row.images_per_second:.1f}", f"{row.first_seconds:.1f}")
        shown.add_row(row.part, row.way, f"{row.batch_size}", *numbers)
    note = "" if report.detections else "\nNothing was detected: what comes after boxes, such as masks, was idle."
    return Group(heading, shown, note)


def _training_rows(report: TrainingReport) -> list[tuple[str, str]]:
    def counted(value: float | None, rest: str = "") -> str:
        return "none on a CPU" if value is None else f"{value:.4g}{rest}"

    return [
        ("images/s", f"{report.images_per_second:.4g}"),
        ("ms a step", f"{report.step_ms:.1f}; the host is busy for {report.host_ms:.1f} of them"),
        (
            "TFLOP/s",
            f"{report.tflops:.3g} of {report.chip_tflops:.3g} that a {report.precision} matrix product reaches here: "
            f"{report.of_chip:.0%} ({report.step_tflop:.3g} TFLOP a step)",
        ),
        ("host syncs a step", counted(report.host_syncs)),
        ("kernels a step", counted(report.kernels, f", {report.kernel_ms or 0:.1f} ms in all")),
        (
            "peak memory",
            counted(
                report.memory_allocated_gib,
                f" GiB of tensors, {report.memory_reserved_gib or 0:.4g} reserved; "
                f"{report.batches_gib:.2g} are batches that stay on the device",
            ),
        ),
        ("first round", f"{report.warm_up_seconds:.1f} s, with what is built and captured once"),
    ]


def _warnings(report: TrainingReport) -> list[str]:
    """What makes the figures doubtful."""
    if all(abs(loss) < float("inf") for loss in report.losses.values()):
        return []
    return [f"\nThe losses are not finite ({report.losses}): the figures are not those of a training."]


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(titles))
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if titles[0] and index else "left", no_wrap=index == 0)
    return table
