from pathlib import Path

from detcore.engine.history import History


def test_rows_and_later_columns(tmp_path: Path) -> None:
    path = tmp_path / "run" / "history.csv"
    history = History(path)
    history.add(1, {"loss": 0.1})
    history.add(2, {"loss": 0.2})
    assert path.read_text().split() == ["step,loss", "1,0.1", "2,0.2"]
    history.add(3, {"loss": 0.3, "mask": 1e-7})
    assert path.read_text().split() == ["step,loss,mask", "1,0.1,", "2,0.2,", "3,0.3,1e-07"]


def test_loading_drops_the_rows_of_a_dead_future(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history = History(path)
    history.add(1, {"loss": 0.1})
    saved = history.state()
    history.add(2, {"loss": 0.2})
    resumed = History(path)
    resumed.load(saved)
    assert path.read_text().split() == ["step,loss", "1,0.1"]
    resumed.add(2, {"loss": 0.4})
    assert path.read_text().split() == ["step,loss", "1,0.1", "2,0.4"]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    history = History(None)
    history.add(1, {"loss": 0.1})
    assert history.state() == [{"step": 1, "loss": 0.1}]
