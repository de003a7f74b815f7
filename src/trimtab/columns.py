"""Columns: a finished table of rows in one file, as Parquet where pyarrow is installed, else as npz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from trimtab.errors import TraceError
from trimtab.whole import written_whole

KEY = b"trimtab"
Table = dict[str, list[Any]]


def write_columns(path: Path, header: str, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write a table as a whole or not at all.

    Args:
        path: where to; its suffix becomes ``.parquet`` or ``.npz``.
        header: text to keep with it.
        columns: by name, all of one length; numbers (None: not a number), or strings.

    Returns:
        The file.

    Raises:
        TraceError: it cannot be written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        parquet = None
    target = path.with_suffix(".npz" if parquet is None else ".parquet")
    try:
        with written_whole(target) as file:
            if parquet is None:
                arrays = {name: _array(entries) for name, entries in columns.items()}
                np.savez_compressed(file, header=np.array(header), **arrays)
            else:
                table = pyarrow.Table.from_pydict(dict(columns)).replace_schema_metadata({KEY: header})
                parquet.write_table(table, file)
    except OSError as error:
        raise TraceError(f"{target} cannot be written ({error}); nothing there was changed.") from error
    return target


def read_columns(path: Path) -> tuple[str, Table]:
    """Read what `write_columns` wrote.

    Args:
        path: a ``.parquet`` or ``.npz`` file.

    Returns:
        The header and the columns.

    Raises:
        TraceError: it is no such file, or damaged.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return str(found["header"]), {name: found[name].tolist() for name in found if name != "header"}
        from pyarrow import parquet

        table = parquet.read_table(path)
    except (ValueError, KeyError, AttributeError, BadZipFile) as error:  # pyarrow's errors are ValueErrors
        raise TraceError(f"{path} is no trace ({error}).") from error
    return (table.schema.metadata or {}).get(KEY, b"").decode(), table.to_pydict()


def _array(entries: Sequence[Any]) -> Any:
    if any(isinstance(entry, str) for entry in entries):
        return np.array(entries, dtype=np.str_)
    is_whole = all(isinstance(entry, int) for entry in entries)
    return np.array(entries, dtype=np.int64 if is_whole else np.float64)
