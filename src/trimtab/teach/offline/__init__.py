"""Offline: teaching from what runs have recorded, without another one; `docs/offline.md`."""

from __future__ import annotations

from trimtab.teach.offline.played import play

__all__ = ["play"]
