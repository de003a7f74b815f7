"""Real base-model problems, each versioned and each carrying the score of a tuned schedule.

A task of your own is one file with one class (see :class:`trimtab.task.Task`) and one line in :data:`CATALOGUE`.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from trimtab.errors import TaskError
from trimtab.task import Task
from trimtab.tasks.chars_transformer import CharsTransformer
from trimtab.tasks.cifar_resnet18 import CifarResNet18
from trimtab.tasks.diabetes_mlp import DiabetesMLP
from trimtab.tasks.digits_cnn import DigitsCNN
from trimtab.tasks.digits_mlp import DigitsMLP
from trimtab.tasks.energy_mlp import EnergyMLP
from trimtab.tasks.fashion_mlp import FashionMLP
from trimtab.tasks.kin8nm_mlp import Kin8nmMLP
from trimtab.tasks.power_mlp import PowerMLP
from trimtab.tasks.ptb_lstm import PtbLSTM
from trimtab.tasks.quadratic import Quadratic

CATALOGUE: dict[str, Callable[[], Task]] = {
    "chars-transformer-v1": CharsTransformer,
    "cifar-resnet18-v1": CifarResNet18,
    "diabetes-mlp-v1": DiabetesMLP,
    "digits-cnn-v1": DigitsCNN,
    "digits-mlp-v1": DigitsMLP,
    "energy-mlp-v1": EnergyMLP,
    "fashion-mlp-v1": FashionMLP,
    "kin8nm-mlp-v1": Kin8nmMLP,
    "power-mlp-v1": PowerMLP,
    "ptb-lstm-v1": PtbLSTM,
    "quadratic-v1": Quadratic,
}
"""Every task by name; the values are classes that take no argument."""


def task_named(name: str) -> Task:
    """Make the task of that name.

    Args:
        name: with its version, such as ``"digits-mlp-v1"``.

    Returns:
        A new instance; what it has loaded is shared.

    Raises:
        TaskError: no task has this name.

    Example:
        >>> task_named("digits-mlp-v1").horizon
        600
    """
    if name in CATALOGUE:
        return CATALOGUE[name]()
    close = get_close_matches(name, CATALOGUE, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise TaskError(f"A task's name must be in CATALOGUE, got {name!r}. {hint}There are: {', '.join(CATALOGUE)}.")
