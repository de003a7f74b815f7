"""Teaching: how a policy learns, from whole runs, outside of them."""

from __future__ import annotations

from trimtab.teach.distribution import Distribution, Lesson
from trimtab.teach.examination import Examination, Mark
from trimtab.teach.exercise import Exercise

__all__ = ["Distribution", "Examination", "Exercise", "Lesson", "Mark"]
