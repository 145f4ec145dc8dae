"""A second place for a training's checkpoints: an object store, which outlives the machine."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, BinaryIO

from detcore.config.stores import Store
from detcore.data.stores import FileStore, StoreError
from detcore.engine.atomic import Contents, write_folder
from detcore.engine.checkpoint import FILES, MANIFEST, RECORD, Checkpoint, CheckpointFolder
from detcore.engine.fingerprint import differences

_PART_BYTES = 8 << 20
_SILENT_SECONDS = 5
"""After so long it is said what is waited for."""


class Mirror:
    """Copies of what is in a `CheckpointFolder`, as URL/HASH/step-00000200/…; of a checkpoint the manifest comes last.

    HASH is the training's fingerprint's: trainings of one name that are not the same do not touch each other's. Two
    machines must not run the same at the same time.

    Args:
        url: the run's folder at the store.
        settings: how the store is waited for.
        fingerprint: of the training.
        folder: what is mirrored.
        say: takes a line about what the store did not take, or what is broken there.
    """

    def __init__(
        self,
        url: str,
        settings: Store,
        *,
        fingerprint: Mapping[str, Any],
        folder: CheckpointFolder,
        say: Callable[[str], None],
    ) -> None:
        self.url = url
        self._store = FileStore(url, settings)
        # A store that stayed out of reach is not waited for as long the next time.
        self._impatient = FileStore(url, settings.model_copy(update={"tries": 1}))
        self._missed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detcore-mirror")
        self._copying: Future[None] | None = None
        self._fingerprint = fingerprint
        self._hash = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]
        self._folder = folder
        self._say = say

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves in the folder; a thread then copies what the store lacks, and removes there what is no longer kept.

        Trouble with the store is said and does not stop the training: all is tried again after the next checkpoint.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        self._folder.save(checkpoint)
        if self._copying is not None:
            self._copying.cancel()  # one that has not begun: the new one brings its checkpoint along
        self._copying = self._thread.submit(self._copy)

    def wait(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until the store has all, or has been found to be out of reach, which may take minutes.

        Args:
            meanwhile: called every second.
        """
        copying, waited = self._copying, 0
        while copying is not None and wait([copying], timeout=1.0).not_done:
            meanwhile()
            waited += 1
            if waited == _SILENT_SECONDS:
                self._say(f"waiting for {self.url} to take the last checkpoint; {self._folder.path} has it")
        if copying is not None:
            copying.result()

    def close(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Waits, and ends the thread."""
        self.wait(meanwhile)
        self._thread.shutdown()

    def fetch(self, *, after: int) -> Checkpoint | None:
        """The newest whole checkpoint of a later step than `after`, put into the folder with the best it knows of.

        Says why, where there are only checkpoints of other trainings.

        Raises:
            StoreError, FileNotFoundError: the store does not answer or refuses, or there is no such bucket.
        """
        names = self._store.names()
        steps = _steps(names, self._hash)
        for step in reversed([step for step in steps if step > after]):
            if (checkpoint := self._fetch(step)) is not None:
                best = checkpoint.record["state"]["best_step"]
                if best in steps and best not in self._folder.steps():
                    self._fetch(best)
                return checkpoint
        if not steps and (others := sorted(name for name in names if name.endswith(f"/{RECORD}"))):
            made_of = json.loads(self._store.read(others[-1]))["fingerprint"]
            self._say(
                f"{self.url} has only checkpoints of another training "
                f"({differences(made_of, self._fingerprint)}); they stay there"
            )
        return None

    def _copy(self) -> None:
        try:
            self._copy_to(self._impatient if self._missed else self._store)
            self._missed = False
        except (OSError, ValueError) as error:
            self._missed = True
            newest = self._folder.steps()[-1]
            self._say(
                f"{error}; the checkpoint of step {newest} is in {self._folder.path} alone until the store takes it, "
                "with the next one"
            )

    def _copy_to(self, store: FileStore) -> None:
        names = store.names()
        there = _steps(names, self._hash)
        for step in self._folder.steps():
            folder = self._folder.folder(step)
            try:
                if step not in there:
                    for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
                        store.write(path, self._name(step, path.name))
            except FileNotFoundError:
                if folder.is_dir():
                    raise
                # No longer kept: what has arrived goes with the next copy.
        for name in sorted(names, key=lambda name: not name.endswith(MANIFEST)):  # first what makes it whole
            of = _step(name, self._hash)
            if of is not None and not self._folder.keeps(of):
                store.remove(name)

    def _fetch(self, step: int) -> Checkpoint | None:
        """Puts a checkpoint into the folder; None and a line if it is broken."""
        try:
            self._write(step)
            return self._folder.read(step)
        except StoreError:  # a ValueError, but not of what is there
            raise
        except (FileNotFoundError, ValueError) as error:
            self._say(f"{error}; going on without it")
            return None

    def _write(self, step: int) -> None:
        def files() -> Iterator[tuple[str, Contents]]:
            manifest = self._store.read(self._name(step, MANIFEST))
            for name in json.loads(manifest).keys() & set(FILES):
                yield name, partial(self._read_into, self._name(step, name))
            yield MANIFEST, manifest

        self._folder.path.mkdir(parents=True, exist_ok=True)
        write_folder(self._folder.folder(step), files())

    def _read_into(self, name: str, file: BinaryIO) -> None:
        start = 0
        while part := self._store.read(name, start, start + _PART_BYTES):
            file.write(part)
            start += len(part)
            if len(part) < _PART_BYTES:
                return

    def _name(self, step: int, name: str) -> str:
        return f"{self._hash}/{self._folder.folder(step).name}/{name}"


def _step(name: str, hash: str) -> int | None:
    """Of the checkpoint that a file belongs to; None for one of another training."""
    folder, _, rest = name.partition("/")
    number = rest.partition("/")[0].removeprefix("step-")
    return int(number) if folder == hash and number.isdigit() else None


def _steps(names: list[str], hash: str) -> list[int]:
    """Of the checkpoints whose manifest is there, rising."""
    found = {_step(name, hash) for name in names if name.endswith(f"/{MANIFEST}")}
    return sorted(step for step in found if step is not None)
