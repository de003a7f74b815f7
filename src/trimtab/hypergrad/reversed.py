"""Exact hypergradients by running SGD with momentum backwards, in arithmetic that loses no bit.

Letters: ``T`` steps, ``S`` sites, ``n`` parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.errors import KnobError

ONE = 2**52  # weights and velocities are whole multiples of 1 / ONE, which leaves 10 bits before the point
BASE = 2**12  # momentum is a whole number of 1 / BASE; a velocity is off by at most BASE / ONE = 1e-12 a step
FULL = 2**48  # a remainder is put away before it could overflow when multiplied by BASE once more
Gradient = Callable[[Tensor, int], Tensor]
"""``[n]`` float64 gradient of step ``t``'s training loss (t from 0) at weights ``[n]``, its graph kept."""


@dataclass(frozen=True)
class Slopes:
    """How the loss at the end answers to what was done on the way.

    Attributes:
        lr: ``[T, S]`` d loss / d learning rate of each step.
        momentum: ``[T, S]`` likewise.
        weight_decay: ``[T, S]`` likewise.
        start: ``[n]`` d loss / d first weight.
        first: ``[n]`` the weights that the way back ended at.
        norms: ``[T]`` the adjoint's norm before each step; where it explodes, slopes of earlier steps are chaos.
        bits: stored per parameter and step, beside weights and velocity.
    """

    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor
    start: Tensor
    first: Tensor
    norms: Tensor
    bits: float


@dataclass
class Reversible:
    """SGD with momentum as ``torch.optim.SGD`` does it, that can be run backwards bit for bit.

    ``v <- m v + g + d w``, ``w <- w - a v``, weights and velocity in fixed point. Adding is undone by subtracting; the
    bits that are lost when ``v`` is multiplied by a momentum ``k / 4096`` are kept in a growing integer a parameter,
    and given back on the way up: about ``log2(1 / m)`` a step and parameter, 0.15 at 0.9, where keeping all weights
    takes 64.

    Maclaurin, Duvenaud & Adams 2015, arXiv:1502.03492, Algorithms 2 and 3. Differs from the source: torch's form of
    the velocity; 52 bits behind the point; the integers are put away when they are full, so that no other type is
    needed.

    Args:
        gradient: of the training loss; the same function of weights and step both ways.
        bounds: for each site where it begins and ends in the ``n`` weights.
        lr: ``[T, S]``.
        momentum: ``[T, S]`` in [0, 1); rounded to 1 / 4096, and at least that.
        weight_decay: ``[T, S]``; None: zeros.

    Raises:
        KnobError: shapes differ, or a momentum is out of range.
    """

    gradient: Gradient
    bounds: Sequence[tuple[int, int]]
    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor | None = None
    _store: list[tuple[int, Tensor]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        """Check shapes and ranges."""
        shapes = {tuple(t.shape) for t in (self.lr, self.momentum, self.weight_decay) if t is not None}
        if len(shapes) != 1 or self.lr.ndim != 2 or self.lr.shape[1] != len(self.bounds):
            raise KnobError(f"Knobs must be [T, S] with S = {len(self.bounds)} sites, got {sorted(shapes)}.")
        if not bool(((self.momentum >= 0) & (self.momentum < 1)).all()):
            raise KnobError(f"Momenta must lie in [0, 1), got {self.momentum.min():g} to {self.momentum.max():g}.")
        if self.weight_decay is None:
            self.weight_decay = torch.zeros_like(self.lr)

    def slopes(self, weights: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Slopes]:
        """Train, and come back.

        Args:
            weights: ``[n]`` float64 to begin with; rounded to the fixed point's grid.
            loss: of the last weights, ``[]``, differentiable.

        Returns:
            The last weights ``[n]``, and the slopes.

        Raises:
            KnobError: weights or velocity leave the fixed point's range: the run diverges.
        """
        place = _fixed(weights)
        velocity, lost = torch.zeros_like(place), torch.zeros_like(place)
        self._store.clear()
        for t in range(len(self.lr)):
            place, velocity, lost = self._ahead(t, place, velocity, lost)
        last = _float(place)
        return last, self._back(place, velocity, lost, loss)

    def _ahead(self, t: int, place: Tensor, velocity: Tensor, lost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pushed = self._pushed(t, place)[1]
        if int(lost.abs().max()) > FULL:
            self._store.append((t, lost))
            lost = torch.zeros_like(lost)
        part = self._parts(t)
        lost = lost * BASE + velocity % BASE
        velocity = torch.div(velocity, BASE, rounding_mode="floor") * part + lost % part
        lost = torch.div(lost, part, rounding_mode="floor")
        velocity = velocity + pushed
        return place - self._moved(t, velocity), velocity, lost

    def _back(self, place: Tensor, velocity: Tensor, lost: Tensor, loss: Callable[[Tensor], Tensor]) -> Slopes:
        leaf = _float(place).requires_grad_()
        (dw,) = torch.autograd.grad(loss(leaf), leaf)
        dv, steps = torch.zeros_like(dw), len(self.lr)
        found = {name: torch.zeros_like(self.lr) for name in ("lr", "momentum", "weight_decay")}
        norms, kept = torch.zeros(steps, dtype=torch.float64), list(self._store)
        for t in reversed(range(steps)):
            norms[t] = torch.hypot(dw.norm(), dv.norm())
            found["lr"][t] = -self._sums(dw * _float(velocity))
            dv = dv - self._spread(self.lr[t]) * dw
            place = place + self._moved(t, velocity)
            graph, pushed = self._pushed(t, place)
            velocity, part = velocity - pushed, self._parts(t)
            lost = lost * part + velocity % part
            velocity = torch.div(velocity, part, rounding_mode="floor") * BASE + lost % BASE
            lost = torch.div(lost, BASE, rounding_mode="floor")
            if kept and kept[-1][0] == t:
                lost = kept.pop()[1]
            found["momentum"][t] = self._sums(dv * _float(velocity))
            found["weight_decay"][t] = self._sums(dv * _float(place))
            leaf, grad = graph
            bent = torch.autograd.grad(grad, leaf, dv, allow_unused=True, materialize_grads=True)[0]
            assert self.weight_decay is not None
            dw = dw + bent + self._spread(self.weight_decay[t]) * dv
            dv = dv * part.to(dv.dtype) / BASE
        words = sum(part.numel() for _, part in self._store) + lost.numel()
        bits = 64 * words / (steps * len(dw))
        return Slopes(found["lr"], found["momentum"], found["weight_decay"], dw, _float(place), norms, bits)

    def _pushed(self, t: int, place: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Give the weights as a leaf and their gradient with its graph, and what is added to the velocity."""
        leaf = _float(place).requires_grad_()
        with torch.enable_grad():
            grad = self.gradient(leaf, t)
        assert self.weight_decay is not None
        return (leaf, grad), _fixed(grad.detach() + self._spread(self.weight_decay[t]) * leaf.detach())

    def _moved(self, t: int, velocity: Tensor) -> Tensor:
        return _fixed(self._spread(self.lr[t]) * _float(velocity))

    def _parts(self, t: int) -> Tensor:
        """``[n]`` int64: momentum as a whole number of ``1 / BASE``."""
        return self._spread((self.momentum[t] * BASE).round().clamp(1, BASE - 1)).to(torch.int64)

    def _spread(self, row: Tensor) -> Tensor:
        """``[S]`` to ``[n]``, float64."""
        sizes = torch.tensor([end - begin for begin, end in self.bounds])
        return row.to(torch.float64).repeat_interleave(sizes)

    def _sums(self, flat: Tensor) -> Tensor:
        """``[n]`` to ``[S]``."""
        return torch.stack([flat[begin:end].sum() for begin, end in self.bounds])


def _fixed(numbers: Tensor) -> Tensor:
    scaled = (numbers.to(torch.float64) * ONE).round()
    if not bool((scaled.abs() < 2**62).all()):
        raise KnobError(
            f"Reversed SGD keeps numbers below {2**62 // ONE}, got {float(numbers.abs().max()):g}: the run diverges."
        )
    return scaled.to(torch.int64)


def _float(numbers: Tensor) -> Tensor:
    return numbers.to(torch.float64) / ONE
