"""Another training's checkpoint as this one's own, to go on from with other settings."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from detcore.config import Config
from detcore.engine.atomic import write_file
from detcore.engine.checkpoint import MANIFEST, RECORD, CheckpointFolder
from detcore.engine.fingerprint import training_config


def adopt_checkpoint(source: CheckpointFolder, target: CheckpointFolder, *, step: int, config: Config) -> None:
    """Makes the checkpoint of `step`, and the best that it knows of, the only ones in `target`.

    The files are shared with `source`, where the file system can, and stay when those are removed. May be repeated
    after a failure. A training with `config` then goes on from it, if its model has the same tensors, and data and code
    are the same.

    Raises:
        ValueError: if the checkpoint is broken.
        OSError: if it is not there, or cannot be written.
    """
    record = json.loads((source.folder(step) / RECORD).read_bytes())
    best = record["state"]["best_step"]
    shutil.rmtree(target.path, ignore_errors=True)
    target.path.mkdir(parents=True)
    # That of `step` last: with it, it is done.
    for each in sorted({step if best is None else best, step}):
        _adopt(source.folder(each), target.folder(each), config)
    target.read(step)


def _adopt(source: Path, target: Path, config: Config) -> None:
    """One checkpoint, whose fingerprint is then of a training with `config`."""
    sums = json.loads((source / MANIFEST).read_bytes())
    record = json.loads((source / RECORD).read_bytes())
    record["fingerprint"]["config"] = training_config(config)
    record["config"] = config.shareable()
    written = json.dumps(record).encode()
    files = {RECORD: written, MANIFEST: json.dumps({**sums, RECORD: hashlib.sha256(written).hexdigest()}).encode()}
    partial = target.with_name(f".{target.name}.tmp")
    partial.mkdir()
    for name in sums.keys() - files.keys():
        _link(source / name, partial / name)
    for name, data in files.items():
        write_file(partial / name, data)
    partial.rename(target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        shutil.copyfile(source, target)  # another file system, or one without links
