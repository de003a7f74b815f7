"""Whole: files that are written as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place only when the block ends well.

    What is written goes to a file of its own in the same folder, is forced to disk and then moved into place: a kill,
    an error or a full disk leaves what was there before.

    Args:
        path: where to; its folder must exist.

    Yields:
        The file, binary.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(f"{folder}/page.txt") as file:
        ...         _ = file.write(b"whole")
        ...     Path(folder, "page.txt").read_bytes()
        b'whole'
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def append_whole(file: FileIO, content: bytes) -> None:
    """Write all of it, or nothing: on a full disk a raw file takes a part and raises only at the next write."""
    end = file.tell()
    try:
        while content:
            content = content[file.write(content) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise
