"""Descend by the cosine of gradient and last update, which every reading has.

Letters: ``B`` members, ``S`` sites, ``K`` knobs. ``g_t`` is the gradient at step ``t``, ``u_{t-1}`` the update that
led there (old weights minus new).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.feedback import largest, start_owing
from trimtab.errors import KnobError
from trimtab.knobs import Panel
from trimtab.signals import Observation

TINY = 1e-300


@dataclass(frozen=True)
class HypergradientDescent:
    """Grows the learning rate while successive steps agree, shrinks it where they undo each other.

    ``lr <- lr * (1 + beta * cos(g_t, u_{t-1}))``, at every site by its own cosine. It acts at readings only: the
    faithful setting is ``every=1``; with more, it sees one pair of steps in `every`, and wants a larger `beta`. Free of
    the loss's unit and of the gradient's scale, and costs nothing: the cosine is in every reading.

    The multiplicative rule of Baydin et al. 2018, arXiv:1703.04782, with their one-step hypergradient
    ``d L(w_t) / d lr = -<g_t, u_{t-1}> / lr``, which holds for every optimizer whose update is lr times something.
    Differs from the source: the cosine uses the update itself, so that Adam's and momentum's need no rule of their own;
    a step is cut to one largest move (a factor ``exp(rate)``); weight decay inside the update counts as part of it;
    acts at readings.

    Args:
        beta: the relative step at full agreement, in (0, 1).

    Raises:
        KnobError: `beta` is outside (0, 1).

    Example:
        >>> HypergradientDescent(beta=0.02).needs
        frozenset()
    """

    beta: float = 0.1
    name = "hypergradient"
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        """Check the step."""
        if not 0 < self.beta < 1:
            raise KnobError(f"Controller 'hypergradient' needs `beta` in (0, 1), got {self.beta}.")

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give what the panel tells, each with leading ``B``; nothing is remembered between readings."""
        return start_owing(panel, members, sites, self.name)

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Move by the cosine; see :class:`trimtab.controller.Controller`."""
        signals = seen.signals
        size = signals.grad_sq.sqrt() * signals.update_sq.sqrt()  # not of the product, which may overflow
        cosine = torch.where(size > 0, signals.grad_dot_update / size.clamp_min(TINY), 0.0)
        cosine = torch.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0).clamp(-1, 1)
        move = (torch.log1p(self.beta * cosine) / largest(seen, state)).clamp(-1, 1)
        return move[..., None].to(seen.position) * state["is_lr"][:, None], state
