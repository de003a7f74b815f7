"""Data sets that no installed package carries: where their files lie, or how they come here.

Two environment variables are read here and nowhere else, at each call; a data set is a matter of the machine:

- ``TRIMTAB_DATA``: a folder that holds the files already, as ``fashion-mnist/...`` and ``uci/energy/...``; then nothing
  is ever downloaded.
- ``TRIMTAB_CACHE``: the folder for downloads; ``~/.cache/trimtab`` by default.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import DataError

ATTEMPTS = 3
BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        path: its place in the data folder and in the cache, such as ``"uci/energy/data.txt"``.
        url: where its authors publish it.
        sha256: its checksum, 64 hexadecimal digits.
        size: bytes.
    """

    path: str
    url: str
    sha256: str
    size: int


def fetch(file: DataFile, *, timeout: float = 30.0, pause: float = 1.0) -> Path:
    """Give the path of a file whose checksum is right; download it if need be.

    A download that broke off goes on where it stopped, also in another process; what is in the cache under the file's
    own name is complete.

    Args:
        file: which.
        timeout: seconds without an answer after which an attempt ends.
        pause: seconds before the second attempt; twice as many before the third.

    Returns:
        A file to read, and not to change.

    Raises:
        DataError: the file is not in ``TRIMTAB_DATA``, cannot be downloaded, or is another one; says what to do.
    """
    if folder := os.environ.get("TRIMTAB_DATA"):
        given = Path(folder).expanduser() / file.path
        if not given.is_file():
            raise DataError(f"TRIMTAB_DATA is {folder!r}, but {given} is not there. {_advise(file, given)}")
        if (actual := _checksum(given)) != file.sha256:
            raise DataError(f"{given} must have SHA-256 {file.sha256}, got {actual}. {_advise(file, given)}")
        return given
    target = _cache() / file.path
    if target.is_file() and _checksum(target) == file.sha256:
        return target
    try:
        _download(file, target, timeout, pause)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"Cannot download {file.path!r}: {error}. {_advise(file, target)}") from error
    return target


def given(path: str, sha256: str) -> Path | None:
    """Give a file that is only ever found in ``TRIMTAB_DATA``: a part of a data set, cut out by somebody.

    Args:
        path: its place there.
        sha256: its checksum.

    Returns:
        The file; None where there is none, or another one.
    """
    folder = os.environ.get("TRIMTAB_DATA")
    found = Path(folder or ".").expanduser() / path
    return found if folder and found.is_file() and _checksum(found) == sha256 else None


def _download(file: DataFile, target: Path, timeout: float, pause: float) -> None:
    """Fill the part file in several attempts, check it, and rename it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _alone(part):
        if target.is_file() and _checksum(target) == file.sha256:
            return  # another process was faster
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _continue(file, part, timeout)
                break
            except (OSError, http.client.HTTPException) as error:
                if _is_final(error, part) or attempt == ATTEMPTS:
                    raise
                time.sleep(pause * attempt)
        if (actual := _checksum(part)) != file.sha256:
            part.unlink()
            raise DataError(
                f"{file.url} must have SHA-256 {file.sha256}, got {actual}; what came was thrown away. "
                f"{_advise(file, target)}"
            )
        part.replace(target)


def _is_final(error: Exception, part: Path) -> bool:
    """Say whether to ask again is of no use; frees the answer that an HTTP error holds."""
    if not isinstance(error, urllib.error.HTTPError):
        return False
    error.close()
    if error.code == 416:  # the server's file ends before our part does: begin anew
        part.unlink(missing_ok=True)
        return False
    return error.code < 500 and error.code not in (408, 429)


def _continue(file: DataFile, part: Path, timeout: float) -> None:
    """Append what the part file lacks.

    Raises:
        ConnectionError: less came than the file has, or it came from another place.
    """
    have = part.stat().st_size if part.exists() else 0
    if have > file.size:
        part.unlink()
        have = 0
    if have == file.size:
        return
    headers = {"User-Agent": "trimtab"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(file.url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout) as response:
        if response.status == 206:
            if not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                raise ConnectionError(f"asked for byte {have} on, got {response.headers.get('Content-Range')}")
        else:
            have = 0  # a server that ignores the range sends all of it
        with part.open("ab" if have else "wb") as out:
            # One byte beyond the size is enough to know that it is another file.
            while have <= file.size and (block := response.read(min(BLOCK, file.size + 1 - have))):
                out.write(block)
                have += len(block)
    if have < file.size:
        raise ConnectionError(f"the connection ended after {have} of {file.size} bytes")


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other processes of this machine from the same download; without effect where there is no ``fcntl``."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with part.with_name(part.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    """Give the folder for downloads."""
    return Path(os.environ.get("TRIMTAB_CACHE") or "~/.cache/trimtab").expanduser()


def _checksum(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _advise(file: DataFile, target: Path) -> str:
    """Say how to get the file by hand."""
    return (
        f"Get {file.url} ({file.size:,} bytes) and put it at {target}; or put it as {file.path} into a folder of your "
        "own and set the environment variable TRIMTAB_DATA to that folder."
    )
