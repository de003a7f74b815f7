"""Dice: a model's random numbers, kept call by call, so that a loss computed again draws the same ones.

Dropout makes the loss of a step one of many. To differentiate that very loss again, each call of the model must draw
what it drew then; with accumulated gradients there are several calls a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[Tensor, tuple[Tensor, ...]]
"""Of torch's generators: the CPU's, and each GPU's."""
Thrown = tuple[State, ...]
"""After the last optimizer step, and then as the model was called, in training with gradients, each time."""
MOST = 1024  # calls that are kept


class Dice:
    """Keeps what the calls of a model draw from, and lets a loss that is computed again draw from there."""

    def __init__(self) -> None:
        self._start = generators()
        self._kept: deque[State] = deque(maxlen=MOST)
        self._calls = 1  # of the model by the loss, when it was last computed again
        self._again: list[State] | None = None

    @property
    def thrown(self) -> Thrown:
        """What the loss since the last optimizer step drew from."""
        return (self._start, *self._kept)

    def begin(self, *_: Any) -> None:
        """Forget the calls: an optimizer step was taken."""
        self._start = generators()
        self._kept.clear()

    def called(self, model: nn.Module, args: Any) -> None:
        """Keep the state as the model is called; or put back the one kept, where the loss is being computed again."""
        if not (model.training and torch.is_grad_enabled()):
            return
        if self._again is None:
            self._kept.append(generators())
            return
        if self._again:
            set_generators(self._again.pop(0))
        self._calls += 1

    def replay(self, loss: Callable[[], Tensor], thrown: Thrown) -> Tensor:
        """Compute a loss again, and leave the generators as they were.

        The calls of the model draw what the last so many of those kept drew. What the loss draws before its first call
        is drawn as after the optimizer step before, which is right where nothing else has drawn since.

        Args:
            loss: computes it; twice where it calls the model another number of times than when last computed.
            thrown: what was kept for it.

        Returns:
            The loss.
        """
        for _ in range(2):  # a loss that calls the model as often as it likes is not followed further
            expected, self._calls = self._calls, 0
            self._again = list(thrown[1:][-expected:]) if expected else []
            try:
                with torch.random.fork_rng():
                    set_generators(thrown[0])
                    found = loss()
            finally:
                self._again = None
            if self._calls == expected or len(thrown) < 2:
                break
        return found


def generators() -> State:
    """Give the state of torch's generators."""
    return torch.get_rng_state(), tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else ()


def set_generators(state: State) -> None:
    """Put torch's generators back to a state."""
    torch.set_rng_state(state[0])
    for number, one in enumerate(state[1]):
        torch.cuda.set_rng_state(one, number)
