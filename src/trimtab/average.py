"""Average: weights averaged over a run, which are read in place of the last ones.

Polynomial-decay averaging, Shamir and Zhang 2013, "Stochastic gradient descent for non-smooth optimization",
arXiv:1212.1824: after step ``t`` the average ``a`` becomes ``a + c (w - a)`` with ``c = (eta + 1) / (t + eta)``. Mostly
the last ninth of the steps so far counts, however long the run will be, and no horizon is needed. `eta` is 8, as in
DoG's own average (Ivgi et al. 2023, arXiv:2302.12022). Differs from the source: in long runs it moves every few steps
(:func:`stride`), each time as far as it would have at all of them had they the same weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trimtab.errors import SignalError

ETA = 8
SAMPLES = 512  # of a whole run: the stride is at most this share of it


def stride(step: Any) -> Any:
    """Give how many steps lie between two moves of an average: 1, and from step 1,025 on the power of 2 below.

    The largest power of 2 that is at most ``(step - 1) / 512``: of the steps that count, at least 57 are looked at, and
    the longer the run, the less the average costs.

    Args:
        step: optimizer steps taken, from 1; an int, or an int64 tensor of them.

    Returns:
        The steps, an int or an int64 tensor.

    Example:
        >>> [stride(step) for step in (1, 1024, 1025, 2049, 100_000)]
        [1, 1, 2, 4, 128]
    """
    many = (step - 1) // SAMPLES
    if isinstance(many, int):
        return 1 << max(0, many.bit_length() - 1)
    return 2 ** (torch.frexp(many.double()).exponent - 1).clamp_min(0).long()


def share(step: Any, since: Any) -> Any:
    """Give how far an average moves towards the weights: by as much as at all steps since its last move together.

    Args:
        step: optimizer steps taken, from 1; an int, or a tensor of them.
        since: as many at its last move; 0: there was none.

    Returns:
        The share, in (0, 1], a float or a tensor likewise: ``1 - prod (i - 1) / (i + eta)`` over those steps ``i``,
        most of whose factors cancel.

    Example:
        >>> [round(share(step, since), 4) for step, since in ((1, 0), (10, 9), (10, 8))]
        [1.0, 0.5, 0.7647]
    """
    return 1 - math.prod((since + i) / (step + i) for i in range(ETA + 1))


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

    def tensors(self) -> list[Tensor]:
        """Give the averages themselves."""
        if self.model is None:
            return []
        return [*self.model.module.parameters(), *self.model.module.buffers()]

    def state_dict(self) -> dict[str, Tensor]:
        """Give what :meth:`load_state_dict` takes: the averages by name."""
        return {} if self.model is None else dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Tensor], step: int) -> None:
        """Go on where `state_dict` was taken, after `step` optimizer steps."""
        if self.model is not None:
            self.model.load_state_dict(state)
        self._step = step - step % stride(step)

    @torch.no_grad()
    def _move(self, averages: Any, weights: Any, _: Tensor | int) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            torch._foreach_lerp_(averages, weights, self._share)
        else:
            torch._foreach_copy_(averages, weights)
