"""Pages: one HTML file each that needs no other; jinja2 is imported when the first is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimtab.errors import TraceError
from trimtab.whole import written_whole


def render(template: str, fields: dict[str, Any]) -> str:
    """Fill a template of this folder; everything but charts is escaped.

    Args:
        template: its file's name.
        fields: what it speaks of; entries named ``svg`` or in lists of them are put in as they are.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("Pages need jinja2, which is not installed: pip install 'trimtab[report]'.") from error
    here = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return here.get_template(template).render(fields)


def save_page(path: Path, text: str) -> Path:
    """Write a file as a whole or not at all.

    Args:
        path: where to; its folder is made if need be.
        text: what.

    Returns:
        The path.

    Raises:
        TraceError: it cannot be written; what was there is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise TraceError(f"The page {path} cannot be written ({error.strerror}): give another path.") from error
    return path
