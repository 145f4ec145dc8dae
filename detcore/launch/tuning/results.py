"""What a search leaves: the table, the picture and the best settings."""

import csv
import shutil
from pathlib import Path

from detcore.config import Config
from detcore.config.variation import BEST
from detcore.launch.tuning.board import Board
from detcore.launch.tuning.picture import save_picture
from detcore.launch.tuning.record import TrialRecord, trial_folder

RESULTS = "results"
"""Its folder in that of the search; all of it goes to MLflow."""


def write_results(config: Config, sweep: Path, board: Board, *, best: Path) -> None:
    """Writes trials.csv, best first, search.png and the best settings.

    Args:
        sweep: the folder of the search.
        best: the file with the best settings.
    """
    assert config.tune is not None
    folder, keys = sweep / RESULTS, list(config.tune.space)
    folder.mkdir(exist_ok=True)
    ranked = board.ranked()
    records = [TrialRecord.load(trial_folder(sweep, row.number)) for row in ranked]
    save_picture(records, folder / "search.png", tune=config.tune, engine=config.engine, metric=board.metric)
    shutil.copy(best, folder / BEST)
    with (folder / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *keys, "status", "step", f"best_{board.metric}", "best_step", "note"])
        for row in ranked:
            best_step, value = row.best or ("", "")
            settings = [row.values[key] for key in keys]
            writer.writerow([row.number, *settings, row.status, row.step, value, best_step, row.note])
