"""The operators against torchvision's, or against the references where torchvision has none.

`python tests/perf/ops.py --device cpu|cuda [--threads 2] [--json FILE] [--case NAME]`. Ours and theirs take turns in
one process; a time is the median. On the CPU a bar is a ratio (theirs / ours), on CUDA a time in milliseconds with a
cold L2 cache, taken by the device's own clock, or by the host's where a call waits for the device. The floor is the
time that the bytes or the operations which no implementation can spare take at the rates that this device reaches in a
large copy and in a large matrix product.
"""

import argparse
import json
import statistics
import time

import torch
from op_cases.case import Call, Case
from op_cases.deform import deform_cases
from op_cases.losses import loss_cases
from op_cases.masks import mask_cases
from op_cases.matching import matching_cases
from op_cases.nms import nms_cases, rotated_cases
from op_cases.roi import roi_cases
from op_cases.warp import warp_cases

from detcore.ops import native

FAMILIES = (roi_cases, nms_cases, rotated_cases, matching_cases, loss_cases, mask_cases, warp_cases, deform_cases)
H100_FP32_FLOPS = 67e12
"""By the datasheet: no library call reaches the rate of scalar arithmetic that could be measured here."""


class Clock:
    """Times calls on one device."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            # Twice the L2 cache of an H100: what one call left there must not serve the next.
            self.flush = torch.empty(2**27, dtype=torch.uint8, device=device)
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def milliseconds(self, call: Call, waits: bool = False) -> float:
        if self.cuda:
            self.flush.zero_()
        if waits or not self.cuda:
            if self.cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            return (time.perf_counter() - started) * 1e3
        torch.cuda._sleep(4_000_000)  # about 2 ms, in which the host gets ahead of the device
        self.events[0].record()
        call()
        self.events[1].record()
        torch.cuda.synchronize()
        return self.events[0].elapsed_time(self.events[1])

    def median(self, call: Call, count: int = 10) -> float:
        self.milliseconds(call)
        return statistics.median(self.milliseconds(call) for _ in range(count))


class Floor:
    """The least time that some work takes on this device, from rates measured here."""

    def __init__(self, clock: Clock, device: str) -> None:
        source = torch.rand(2**26 if clock.cuda else 2**24, device=device)
        target = torch.empty_like(source)
        self.bytes_per_ms = 8 * source.numel() / clock.median(lambda: target.copy_(source))
        size, dtype = (8192, torch.bfloat16) if clock.cuda else (1024, torch.float32)
        left, right = (torch.rand((size, size), device=device).to(dtype) for _ in range(2))
        self.matrix_per_ms = 2 * size**3 / clock.median(lambda: left @ right)
        self.scalar_per_ms = H100_FP32_FLOPS / 1e3 if clock.cuda else self.matrix_per_ms

    def __str__(self) -> str:
        return f"copy {self.bytes_per_ms / 1e9:.3f} TB/s, matrix product {self.matrix_per_ms / 1e9:.2f} TFLOP/s"

    def milliseconds(self, case: Case) -> float:
        rate = self.matrix_per_ms if case.matrix else self.scalar_per_ms
        return max(case.moved / self.bytes_per_ms, case.flops / rate)


def measure(case: Case, clock: Clock, floor: Floor, budget_seconds: float) -> dict[str, object]:
    times: tuple[list[float], list[float]] = ([], [])
    calls = (case.ours, case.theirs)
    for call in calls:
        clock.milliseconds(call, case.waits)
    stop = time.perf_counter() + budget_seconds
    while len(times[0]) < 3 or (time.perf_counter() < stop and len(times[0]) < 100):
        for call, own in zip(calls, times, strict=True):
            call()  # takes the host's caches back from the other one
            own.append(clock.milliseconds(call, case.waits))
    ours, theirs = (statistics.median(own) for own in times)
    ratio = theirs / ours
    met = ours <= case.bar if clock.cuda else ratio >= case.bar
    row = {"case": case.name, "unit": "ms", "ours": ours, "theirs": theirs, "ratio": ratio, "bar": case.bar, "met": met}
    row["floor"] = floor.milliseconds(case)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    built = "built" if native.serves(device) else "not built: the references are measured against themselves"
    clock = Clock(device)
    floor = Floor(clock, device)
    kind = torch.cuda.get_device_name() if clock.cuda else f"{arguments.threads} threads"
    print(f"native operators for {device}: {built}; torch {torch.__version__}, {kind}; {floor}")
    print(f"{'case':62} {'ours ms':>9} {'theirs ms':>10} {'ratio':>7} {'bar':>6} {'floor':>7}")
    rows = []
    for cases in FAMILIES:
        for case in cases(device):
            if arguments.case not in case.name:
                continue
            row = measure(case, clock, floor, arguments.seconds)
            rows.append(row)
            print(
                f"{row['case']:62} {row['ours']:9.3f} {row['theirs']:10.3f} {row['ratio']:7.2f} {row['bar']:6.2f}"
                f" {row['floor']:7.3f}{'' if row['met'] else '  missed'}",
                flush=True,
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
