"""Deformable convolution and deformable attention."""

from collections.abc import Iterator

from op_cases.case import Case


def deform_cases(device: str) -> Iterator[Case]:
    yield from ()
