"""One training at a time in a run's folder."""

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = "lock"
_LOOK_SECONDS = 0.2
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Of a network file system without locks, which is no reason not to train."""


@contextmanager
def only_training(run_dir: Path) -> Iterator[None]:
    """Inside, no other driver of a training gets past here with the same folder.

    The lock is the process's, not the file's: it is gone with the process, however that ends. Evaluation takes none.

    Raises:
        ValueError: if another training holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / FILE_NAME).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another training is running in {run_dir}; wait for it or stop it, or set another run_dir"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        yield


def until_free(run_dir: Path, *, seconds: float) -> None:
    """Waits until nobody trains in this folder.

    Raises:
        ValueError: if that takes longer.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            with only_training(run_dir):
                return
        except ValueError:
            if time.monotonic() > until:
                raise
        time.sleep(_LOOK_SECONDS)
