"""The dossier of a model by its name in the registry, or of a run that is not registered."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detcore.config import load
from detcore.tracking import resolve
from detcore.tracking.attachments import attached
from detcore.zoo.dossier import CONFIG, FILES, Dossier, collect, read_dossier


@contextmanager
def open_dossier(name: str, *, uri: str | None = None) -> Iterator[Dossier]:
    """What is known of a model; its files are there within the block.

    Args:
        name: `name@alias`, `name/version`, `name` (the latest), or the folder of a run.
        uri: of the registry; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if there is neither, or a file of it is broken.
        ConnectionError: if MLflow is out of reach.
    """
    run_dir = Path(name)
    if (run_dir / "model").is_dir() and (run_dir / CONFIG).is_file():
        config = load(file=run_dir / CONFIG).model_copy(update={"run_dir": str(run_dir)})
        with tempfile.TemporaryDirectory() as folder:
            collect(config, Path(folder))
            yield read_dossier(name, run_dir / "model", Path(folder))
        return
    model_dir = resolve(name, uri=uri)
    with attached(name, FILES, uri=uri) as kept:
        yield read_dossier(name.removeprefix("models:/"), model_dir, kept)
