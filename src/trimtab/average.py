"""Average: weights averaged over a live run, which are used in place of the last ones.

How they move is :mod:`trimtab.averaging`, which of them to use in the end :mod:`trimtab.best`.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trimtab import best
from trimtab.aside import aside
from trimtab.averaging import share, stride
from trimtab.checkpoint import copied, fitted
from trimtab.errors import SignalError
from trimtab.ranks import local

State = dict[str, Any]


class Average:
    """Keeps the average of a live model, which torch's ``AveragedModel`` holds.

    Args:
        model: the network in training; it is copied, and `put` alone writes to it. None: no average is kept.

    Attributes:
        model: the averages of its parameters and of its buffers (of one that counts, the last), in evaluation mode and
            without gradients; called as the network is, which it holds as ``module``. None where none is kept.

    Raises:
        SignalError: the network cannot be copied.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._source, self._step = model, 0  # the step of its last move
        self._share = 1.0
        self._memory, self._lowest = best.start(1), list[Tensor]()
        self.model: AveragedModel | None = None
        if model is None:
            return
        try:
            self.model = AveragedModel(model, multi_avg_fn=self._move, use_buffers=True).requires_grad_(False)
        except Exception as error:  # whatever a module's own __deepcopy__ makes of it, or a lazy parameter
            raise SignalError(
                f"This `model` cannot be copied yet ({error}), so no average of its weights is kept: `average=False`."
            ) from error
        self.model.eval()

    def follow(self, step: int) -> None:
        """Move on after an optimizer step, if it is time; a second call for the same step does nothing.

        Args:
            step: its number, from 1.
        """
        if self.model is not None and self._source is not None and step - self._step >= stride(step):
            self._share = share(step, self._step)
            self._step = step
            self.model.update_parameters(self._source)

    @torch.no_grad()
    def put(self) -> None:
        """Set the network itself to its average, in place."""
        if self.model is not None and self._source is not None:
            own = (*self._source.parameters(), *self._source.buffers())
            for tensor, average in zip(own, self.tensors(), strict=True):
                tensor.copy_(average)

    @torch.no_grad()
    def heard(self, val: Tensor | None, *, is_left: bool) -> None:
        """Take what validation says of the average as it is now.

        Args:
            val: ``[1]``, its loss; None, or not finite: it was not measured.
            is_left: the run has just gone back to an earlier state, and the loss is of the one that is gone.
        """
        if self.model is None or (val is None and not is_left):
            return
        unknown = torch.full((1,), math.nan)
        is_lowest, self._memory = best.heard(unknown if val is None else val, self._memory, torch.tensor([is_left]))
        if bool(is_lowest) and self._lowest:
            for lowest, tensor in zip(self._lowest, self.tensors(), strict=True):
                lowest.copy_(tensor)
        elif bool(is_lowest):
            self._lowest = [aside(tensor, waits=True) for tensor in self.tensors()]

    @torch.no_grad()
    def best(self) -> AveragedModel | None:
        """Give the average to use: `model`, or, where it validates clearly worse, a copy that holds the lowest."""
        if self.model is None:
            return None
        is_sane = all(bool(local(p).isfinite().all()) for p in self.model.module.parameters())
        if not bool(best.is_past(self._memory, torch.tensor([is_sane]))):
            return self.model
        made: AveragedModel = copy.deepcopy(self.model, {id(self): self})  # not the network in training too
        for tensor, lowest in zip(_tensors(made), self._lowest, strict=True):
            tensor.copy_(lowest)
        return made

    def tensors(self) -> list[Tensor]:
        """Give the averages themselves."""
        return [] if self.model is None else _tensors(self.model)

    def state_dict(self) -> State:
        """Give what :meth:`load_state_dict` takes: the averages by name, those that validated lowest, what is known."""
        if self.model is None:
            return {}
        state = {"model": dict(self.model.state_dict()), "lowest": self._lowest, "memory": self._memory}
        return {name: copied(part) for name, part in state.items()}

    def matched(self, state: State) -> State:
        """Bring a state into the form of this run's.

        Args:
            state: one from a checkpoint.

        Returns:
            A copy.

        Raises:
            StateError: it was taken of another model, or of a run without an average.
        """
        if state and "memory" not in state:  # of a run that knew the average alone
            state = {"model": state, "lowest": [], "memory": best.start(1)}
        mine = self.state_dict()
        if mine:
            mine["lowest"] = [aside(tensor) for tensor in self.tensors()] if state.get("lowest") else []
        found: State = fitted(state, mine, "average")
        return found

    def load_state_dict(self, state: State, step: int) -> None:
        """Go on where `state_dict` was taken, as `matched` gives it, after `step` optimizer steps."""
        if self.model is not None:
            self.model.load_state_dict(state["model"])
            self._lowest, self._memory = state["lowest"], state["memory"]
        self._step = step - step % stride(step)

    @torch.no_grad()
    def _move(self, averages: Any, weights: Any, _: Tensor | int) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            torch._foreach_lerp_(averages, weights, self._share)
        else:
            torch._foreach_copy_(averages, weights)


def _tensors(model: AveragedModel) -> list[Tensor]:
    return [*model.module.parameters(), *model.module.buffers()]
