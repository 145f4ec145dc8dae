from collections.abc import Iterator
from pathlib import Path

import pytest

from detcore.engine.atomic import write_file, write_folder


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_folder(target, [("a", b"1"), ("b", b"2")])
    write_folder(target, [("a", b"3")])
    assert [(path.name, path.read_bytes()) for path in target.iterdir()] == [("a", b"3")]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_folder(target, [("a", b"1")])

    def files() -> Iterator[tuple[str, bytes]]:
        yield "a", b"2"
        assert (target / "a").read_bytes() == b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(target, files())
    assert (target / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    target = tmp_path / "history.csv"
    write_file(target, b"1")
    (tmp_path / ".history.csv.tmp").mkdir()
    with pytest.raises(OSError, match=r"history\.csv"):
        write_file(target, b"2")
    assert target.read_bytes() == b"1"
