"""Teaching: how a policy learns, from whole runs outside of them, or online inside one.

`docs/teaching.md` tells how to teach one; ``trimtab teach FILE.toml`` does it. `docs/online.md` is about the other way.
"""

from __future__ import annotations

from trimtab.teach.bandit import Exp3
from trimtab.teach.brains import Brain
from trimtab.teach.course import Course, read_course
from trimtab.teach.distribution import Distribution, Lesson
from trimtab.teach.ensemble import QEnsemble
from trimtab.teach.evolution import Evolution, Teacher
from trimtab.teach.examination import Examination, Mark
from trimtab.teach.exercise import Exercise
from trimtab.teach.genome import Genome
from trimtab.teach.inrun import ModelControl
from trimtab.teach.online import OnlineTeaching
from trimtab.teach.pes import PersistentEvolution
from trimtab.teach.school import School
from trimtab.teach.unroll import Unroll

__all__ = [
    "Brain",
    "Course",
    "Distribution",
    "Evolution",
    "Examination",
    "Exercise",
    "Exp3",
    "Genome",
    "Lesson",
    "Mark",
    "ModelControl",
    "OnlineTeaching",
    "PersistentEvolution",
    "QEnsemble",
    "School",
    "Teacher",
    "Unroll",
    "read_course",
]
