"""Teaching: how a policy learns, from whole runs, outside of them."""

from __future__ import annotations

from trimtab.teach.distribution import Distribution, Lesson
from trimtab.teach.evolution import Evolution, Teacher
from trimtab.teach.examination import Examination, Mark
from trimtab.teach.exercise import Exercise
from trimtab.teach.genome import Genome
from trimtab.teach.pes import PersistentEvolution

__all__ = [
    "Distribution",
    "Evolution",
    "Examination",
    "Exercise",
    "Genome",
    "Lesson",
    "Mark",
    "PersistentEvolution",
    "Teacher",
]
