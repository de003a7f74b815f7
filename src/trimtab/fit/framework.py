"""Framework: what somebody else's package must be here for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed(package: str, extra: str) -> Iterator[None]:
    """Import a framework inside, and say what to install where it is missing.

    Args:
        package: its name, as it is imported.
        extra: ours that installs it.

    Yields:
        Nothing.

    Raises:
        ImportError: the package is not installed.
        ModuleNotFoundError: it is, and something that it needs is not.

    Example:
        >>> with needed("robots", "robots"):
        ...     import robots
        Traceback (most recent call last):
        ImportError: This part of trimtab needs robots, which is not installed: pip install 'trimtab[robots]'.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(
            f"This part of trimtab needs {package}, which is not installed: pip install 'trimtab[{extra}]'."
        ) from error
