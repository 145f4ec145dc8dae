"""Tables of comma-separated values, column by column."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from detcore.data.formats.fields import brief


def read_table(path: Path, columns: Mapping[str, pa.DataType], *, header: bool = True) -> pa.Table:
    """Columns of a CSV file, without nulls.

    Args:
        path: of the file.
        columns: those wanted, by name, with their types.
        header: the first row names the columns, and there may be others. Without one, `columns` names them all.

    Raises:
        ValueError: naming the file and, where it can be told, the row: the file is missing, empty or not UTF-8, lacks a
            column, or has a row of another length, a value of another kind or none.
    """
    names = list(columns)
    # On one thread, so that messages have the number of the row.
    reading = csv.ReadOptions(use_threads=False, column_names=None if header else names)
    converting = csv.ConvertOptions(
        column_types=columns, include_columns=names, null_values=[""], strings_can_be_null=True
    )
    try:
        table = csv.read_csv(path, read_options=reading, convert_options=converting)
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist") from None
    except KeyError as error:
        raise ValueError(f"{path}: has no column among {', '.join(names)}: {brief(error.args[0])}") from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {brief(error)}") from error
    for name in names:
        if table[name].null_count:
            row = table[name].is_null().index(True).as_py() + 1 + header
            raise ValueError(f"{path}: row {row} has no {name}")
    return table
