"""Pages: one HTML file each that needs no other; jinja2 is imported when the first is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trimtab.errors import TraceError


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


def write_whole(path: Path, text: str) -> Path:
    """Write a file as a whole or not at all.

    Args:
        path: where to; its folder is made if need be.
        text: what.

    Returns:
        The path.

    Raises:
        TraceError: it cannot be written; what was there is still there.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True) if partial.parent.is_dir() else None
        raise TraceError(f"The page {path} cannot be written ({error.strerror}): give another path.") from error
    return path
