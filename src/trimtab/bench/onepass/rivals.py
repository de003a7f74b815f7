"""Rivals: two methods of the paper that follow no hypergradient of a validation loss.

Letters: ``B`` runs, ``S`` sites, ``K`` knobs, ``n`` parameters of a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trimtab.controller import State
from trimtab.controllers.ablation import Random
from trimtab.hypergrad.estimator import Form, Memory, blank
from trimtab.hypergrad.step import Step
from trimtab.knobs import EARLY_STEPS, Panel
from trimtab.layout import Layout
from trimtab.signals import Observation


@dataclass(frozen=True)
class Agreement:
    """``-<g_t, g_{t-1}>``: how two successive batches' gradients disagree, put before the first knob.

    What the authors of the one-pass paper take for Baydin et al.'s slope: without momentum, weight decay, or the
    derivative of the rate's logarithm. Differs from the source: ``g_t`` is the next step's own gradient, which costs
    nothing, where theirs is taken of one batch more.
    """

    name = "agreement"
    needs = frozenset({"hypergrad"})
    is_running = False

    def start(self, form: Form) -> Memory:
        """Give ``grad`` ``[B, n]`` and ``blank`` ``[B, S, K]``, zeros."""
        return {"grad": torch.zeros_like(form.weights), "blank": blank(form)}

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Keep the gradient; see :class:`trimtab.hypergrad.Estimator`."""
        return {**memory, "grad": step.grad}

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Multiply it by the next one."""
        slope: Tensor = memory["blank"].clone()
        slope[..., 0] = -layout.per_site_sums((memory["grad"] * grad).to(torch.float64))
        return slope


@dataclass(frozen=True)
class Baydin:
    """``log10 lr <- log10 lr + step <g_t, g_{t-1}>`` at every step: Baydin et al. 2018 as the one-pass paper ran it.

    Theirs is ``lr <- lr + beta <g_t, g_{t-1}>``; arXiv:2110.10461's authors step the logarithm so, and by 0.001.
    Only the first knob is turned, and it must be the learning rate, on a log scale.

    Args:
        step: of ``log10 lr``.
    """

    step: float = 0.001
    name = "baydin"
    needs = frozenset({"hypergrad"})

    @property
    def estimator(self) -> Agreement:
        """Whose slope is followed."""
        return Agreement()

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give ``rate`` ``[B]``, the rate's largest change."""
        return {"rate": torch.full((members,), panel[0].rate, dtype=torch.float64)}

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Step against the slope."""
        assert seen.signals.hypergrad is not None
        return _moved(-self.step * math.log(10) * seen.signals.hypergrad[..., 0], seen, state), state


@dataclass(frozen=True)
class SteppedRate:
    """Multiplies the learning rate by a draw from [0.95, 1.01] every ten steps: the paper's "Random (xLR)".

    Only the first knob is turned, and it must be the learning rate, on a log scale.
    Source: the code to arXiv:2110.10461 (its text draws from [0.995, 1.001] at every step).

    Args:
        first: the number of member 0; each number has its own draws.
    """

    first: int = 0
    name = "stepped-rate"
    needs = frozenset[str]()

    @cached_property
    def _draw(self) -> Random:
        return Random(reach=1.0, seed=self.first)

    def prior(self, panel: Panel, horizon: int | None) -> Tensor | None:
        """Give None: the constant 1."""
        return None

    def start(self, panel: Panel, members: int, sites: int) -> State:
        """Give ``rate`` ``[B]``, the rate's largest change, and what the draws need."""
        draws = self._draw.start(panel, members, sites)
        return {"rate": torch.full((members,), panel[0].rate, dtype=torch.float64), "draws": draws}

    def act(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Draw, at multiples of ten."""
        draw, draws = self._draw.act(seen, state["draws"])
        factor = 0.98 + 0.03 * draw[..., 0]
        is_time = (seen.signals.step % 10 == 0)[:, None]
        return _moved(torch.where(is_time, factor.log(), 0.0), seen, state), {**state, "draws": draws}


def _moved(change: Tensor, seen: Observation, state: State) -> Tensor:
    """Give the move ``[B, S, K]`` that changes the first knob's logarithm by ``[B, S]``."""
    limit = state["rate"] * torch.where(seen.signals.step <= EARLY_STEPS, 2.0, 1.0)
    move = torch.zeros_like(seen.position)
    move[..., 0] = torch.nan_to_num(change / limit[:, None], nan=0.0).clamp(-1, 1)
    return move
