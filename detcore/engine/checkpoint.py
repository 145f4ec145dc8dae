"""Checkpoints on disk: whole or absent, checked when read, the newest valid one wins."""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from detcore.engine.atomic import Contents, HashingFile, write_folder
from detcore.engine.weights_file import write_weights

WEIGHTS, AVERAGE, TENSORS, RECORD, MANIFEST = (
    "weights.safetensors",
    "average.safetensors",
    "training.pt",
    "record.json",
    "manifest.json",
)
FILES = (WEIGHTS, AVERAGE, TENSORS, RECORD)
MOST_SET_ASIDE = 3
"""Checkpoints of so many earlier trainings stay."""


class CheckpointError(OSError):
    """A checkpoint could not be written. The message says which one still stands."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All of a training at one step.

    Attributes:
        step: optimiser steps done.
        weights: the model's state.
        average: the same with averaged parameters, or None where none are kept.
        tensors: optimiser, loss scale, loader, random generators: tensors and plain values in dicts, lists and tuples.
        record: what JSON can hold: state, curves, configuration, fingerprint.
    """

    step: int
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    tensors: Mapping[str, Any]
    record: Mapping[str, Any]


class CheckpointFolder:
    """`step-00000200/` and its like in one folder, each with a manifest of SHA-256 sums.

    Args:
        path: the folder; made when the first checkpoint is saved.
        keep: so many of the newest stay, and for each of them the best it knows of.
        keep_every: those at multiples of so many steps stay, too.
        say: takes a line about a checkpoint that is broken.
    """

    def __init__(self, path: Path, *, keep: int, say: Callable[[str], None], keep_every: int | None = None) -> None:
        self.path = path
        self._keep, self._keep_every = keep, keep_every
        self._say = say

    def folder(self, step: int) -> Path:
        return self.path / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Of the checkpoints there, rising."""
        numbers = (folder.name.removeprefix("step-") for folder in self.path.glob("step-*"))
        return sorted(int(number) for number in numbers if number.isdigit())

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint, then removes those that are no longer to be kept.

        Raises:
            CheckpointError: disk full, or the like; the checkpoints from before stay as they are.
        """
        folder = self.folder(checkpoint.step)
        try:
            write_folder(folder, _files(checkpoint))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno is not None else str(error)
            hint = ": make room, then run the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            still = f"the one of step {self.steps()[-1]} still stands" if self.steps() else "there is none before it"
            raise CheckpointError(f"{folder}: cannot save this checkpoint ({reason}){hint}; {still}") from error
        self.prune()
        return folder

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. A broken one is named and passed over."""
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except (OSError, ValueError) as error:
                self._say(f"{error}; using the checkpoint before it, if there is one")
        return None

    def read(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            ValueError: if it is broken.
            OSError: if it cannot be read.
        """
        files = self._checked(step)
        try:
            tensors = torch.load(io.BytesIO(files[TENSORS]), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # it asks for code to be run
            raise ValueError(f"{self.folder(step) / TENSORS} holds more than tensors and plain values") from error
        return Checkpoint(
            step=step,
            weights=safetensors.torch.load(files[WEIGHTS]),
            average=safetensors.torch.load(files[AVERAGE]) if AVERAGE in files else None,
            tensors=tensors,
            record=json.loads(files[RECORD]),
        )

    def read_weights(self, step: int) -> dict[str, Tensor]:
        """The averaged weights of a checkpoint where there are any, else the plain ones.

        Raises:
            ValueError: if the checkpoint is broken.
            OSError: if it is not there.
        """
        files = self._checked(step)
        return safetensors.torch.load(files.get(AVERAGE) or files[WEIGHTS])

    def keeps(self, step: int) -> bool:
        """Whether a checkpoint is one to keep, be it here or only at another place."""
        return self._stays(step) or self.folder(step).is_dir()

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of steps that a training resumed at `step` will take anew: all these are broken."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(self.folder(later))

    def set_aside(self) -> Path:
        """Moves all checkpoints out of the way, beside those set aside before; says which of these it removes."""
        before = self._set_aside_before()
        number = max(before, default=0) + 1
        name = f"{self.path.name}.previous"
        aside = self.path.rename(self.path.with_name(name if number == 1 else f"{name}-{number}"))
        for old in sorted(before)[: -(MOST_SET_ASIDE - 1)]:
            self._say(f"removing the checkpoints of an earlier training: {before[old]}")
            shutil.rmtree(before[old])
        return aside

    def _set_aside_before(self) -> dict[int, Path]:
        """By number; the higher, the later."""
        pattern = re.compile(re.escape(self.path.name) + r"\.previous(?:-(\d+))?")
        found = ((pattern.fullmatch(path.name), path) for path in self.path.parent.iterdir())
        return {int(match[1] or 1): path for match, path in found if match}

    def _checked(self, step: int) -> dict[str, bytes]:
        """The bytes of all files of a checkpoint, equal to its manifest."""
        folder = self.folder(step)
        try:
            sums: dict[str, str] = json.loads((folder / MANIFEST).read_bytes())
            if not {WEIGHTS, TENSORS, RECORD} <= sums.keys() <= set(FILES):
                raise ValueError(f"lists {', '.join(sums)}")
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"{folder}: broken checkpoint, {MANIFEST} cannot be read ({error})") from error
        files = {}
        for name, expected in sums.items():
            path = folder / name
            files[name] = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(files[name]).hexdigest() != expected:
                raise ValueError(
                    f"{folder}: broken checkpoint, {name} does not have the SHA-256 that its manifest says"
                )
        return files

    def prune(self) -> None:
        """Removes the checkpoints that are not to be kept."""
        newest = self.steps()[-self._keep :]
        kept = {*newest, *map(self._best_known_to, newest)}
        for step in self.steps():
            if step not in kept and not self._stays(step):
                shutil.rmtree(self.folder(step))
        for leftover in self.path.glob(".step-*"):  # of a process that was killed while saving
            shutil.rmtree(leftover)

    def _stays(self, step: int) -> bool:
        return self._keep_every is not None and step % self._keep_every == 0

    def _best_known_to(self, step: int) -> int | None:
        """The best step as of a checkpoint: needed to publish, should the training be resumed from there."""
        try:
            best: int | None = json.loads((self.folder(step) / RECORD).read_bytes())["state"]["best_step"]
        except (OSError, ValueError, KeyError):
            return None  # broken: it will never be resumed from
        return best


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, Contents]]:
    """Name and contents of every file; the manifest, of what has been written before it, comes last."""
    sums: dict[str, str] = {}

    def hashed(name: str, write: Callable[[HashingFile], object]) -> tuple[str, Contents]:
        def contents(file: BinaryIO) -> None:
            with HashingFile(file) as hashing:
                write(hashing)
            sums[name] = hashing.hexdigest()

        return name, contents

    yield hashed(WEIGHTS, partial(write_weights, checkpoint.weights))
    if checkpoint.average is not None:
        yield hashed(AVERAGE, partial(write_weights, checkpoint.average))
    yield hashed(TENSORS, partial(torch.save, dict(checkpoint.tensors)))
    # Without indentation, which Python's encoder in C cannot do: the curves of a long training are thousands of rows.
    record = json.dumps(dict(checkpoint.record)).encode()
    yield hashed(RECORD, lambda file: file.write(record))
    yield MANIFEST, json.dumps(sums, indent=2).encode()
