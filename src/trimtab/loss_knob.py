"""Loss knobs: hyperparameters inside the loss, such as a term's weight or label smoothing, that have a derivative."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.knobs import Knob, Panel, Scale


class LossKnob(Knob):
    """A knob that the training loss is computed with: write the loss with :attr:`value`, a tensor.

    A hypergradient reaches such a knob through the gradient that it shapes, ``dF/dg d(grad L)/dv``: the optimizer's
    update does not see it otherwise. The held-out loss is to be free of it. It belongs to the whole run, not to a site.

    A dropout's probability decides masks, which have no derivative: compute it by :func:`relaxed_dropout`.

    Args:
        name: any that no optimizer's field has.
        value: to begin with.
        low: lower bound.
        high: upper bound.
        scale: as a :class:`Knob`'s.
        rate: likewise.

    Raises:
        KnobError: `value` is outside of the range, or the range is not valid.

    Example:
        >>> decay = LossKnob("ridge", 0.01, 1e-4, 1.0)
        >>> weights = torch.tensor([3.0, 4.0])
        >>> round(float(decay.value * weights.square().sum()), 4)
        0.25
    """

    def __init__(
        self, name: str, value: float, low: float, high: float, scale: Scale = "log", rate: float = 0.5
    ) -> None:
        cell = [torch.tensor(float(value))]

        def write(value: float) -> None:
            cell[0] = torch.tensor(float(value))

        super().__init__(name, low, high, scale, rate, lambda: float(cell[0]), write)
        object.__setattr__(self, "_cell", cell)  # the dataclass is frozen
        if not low <= value <= high:
            raise KnobError(f"Knob {name!r} must begin in its range, [{low}, {high}], got {value}.")

    @property
    def value(self) -> Tensor:
        """What it is set to now, ``[]``: a tensor to write the loss with, a leaf where the loss is differentiated."""
        cell: list[Tensor] = self._cell  # type: ignore[attr-defined]
        return cell[0]

    @contextmanager
    def set_to(self, leaf: Tensor) -> Iterator[None]:
        """Let `value` be another tensor for a while."""
        cell: list[Tensor] = self._cell  # type: ignore[attr-defined]
        before = cell[0]
        cell[0] = leaf
        try:
            yield
        finally:
            cell[0] = before


def loss_knobs(panel: Panel) -> tuple[LossKnob, ...]:
    """Give a panel's loss knobs, in its order."""
    return tuple(knob for knob in panel if isinstance(knob, LossKnob))


def relaxed_dropout(x: Tensor, p: Tensor, temperature: float = 0.1, noise: Tensor | None = None) -> Tensor:
    """Drop entries by a mask that is nearly 0 or 1, and has a derivative by the probability.

    ``z = sigmoid((ln p - ln(1 - p) + ln u - ln(1 - u)) / temperature)``, ``u`` uniform, is dropped: ``x (1 - z) / (1 -
    p)``. The colder, the nearer to dropout, and the noisier its derivative; at any temperature above 0 it is biased.

    The concrete relaxation: Maddison et al. 2017, arXiv:1611.00712; of dropout: Gal et al. 2017, arXiv:1705.07832,
    Eq. (5).

    Args:
        x: ``[...]``.
        p: ``[]`` the probability of being dropped, in (0, 1).
        temperature: above 0.
        noise: ``u``, like `x`, in [0, 1); None: drawn here.

    Returns:
        ``[...]``.

    Raises:
        KnobError: `temperature` is not above 0.
    """
    if not temperature > 0:
        raise KnobError(f"`temperature` must be above 0, got {temperature}.")
    u = (torch.rand_like(x) if noise is None else noise).clamp(1e-6, 1 - 1e-6)
    p = p.to(x)
    dropped = torch.sigmoid((torch.logit(p) + torch.logit(u)) / temperature)
    return x * (1 - dropped) / (1 - p)
