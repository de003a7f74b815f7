"""Per parameter: a learning rate of its own for every parameter.

Letters: ``B`` members, ``S`` sites, ``n`` parameters of a member.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from trimtab.copies import select
from trimtab.errors import KnobError
from trimtab.hypergrad.estimator import Estimator, Fine, Form, Memory
from trimtab.hypergrad.followers import Follower
from trimtab.hypergrad.step import Step
from trimtab.layout import Layout


@final
class PerParameter:
    """Multiplies each parameter's update by a factor of its own, and lets a follower turn it by its hypergradient.

    With ``d`` the update of the optimizer at a site's learning rate, ``w' = w + 10^a d``, one ``a`` a parameter, 0 at
    first. Every optimizer's update here is its learning rate times something, so ``lr 10^a`` is that parameter's rate.
    ``dL/da = p d ln 10 10^a``, with ``p`` what the estimator puts before the new weights: it needs no product that
    the knobs do not need. A rate stays within its knob's range, and moves by the knob's largest move at most; what is
    no number moves nothing, and is counted. As with knobs, what a step taught holds from the step after next.

    "WD+HDLR+M" of Clarke et al. 2022, arXiv:2110.10461, is this with one-pass implicit differentiation and Adam (their
    Algorithm 1, an ``a`` per weight); with one step's slope and its sign it is the delta-bar-delta rule's kin (Jacobs
    1988). Differs from the source: a bounded move, the knob's range for their [1e-10, 1]. Memory: ``6 n`` numbers with
    Adam beside what the estimator keeps, and live a copy of weights and slots for each step.

    Args:
        estimator: whose slope by single parameters is followed; all but forward mode, which would carry ``n`` copies
            of the weights.
        follower: what is done with it.

    Raises:
        KnobError: the estimator cannot tell parameters apart.

    Example:
        >>> from trimtab.hypergrad import Implicit
        >>> from trimtab.hypergrad.followers import Adam
        >>> PerParameter(Implicit(3), Adam(0.05)).name
        'implicit-per-parameter'
    """

    is_running = True

    def __init__(self, estimator: Estimator, follower: Follower) -> None:
        if not isinstance(estimator, Fine):
            raise KnobError(
                f"Estimator {estimator.name!r} cannot tell parameters apart (it would need a direction for each): "
                "leave `per_parameter` out, or choose another."
            )
        self.estimator, self.follower, self.needs = estimator, follower, estimator.needs
        self.name = f"{estimator.name}-per-parameter"

    def __repr__(self) -> str:
        """Say all settings."""
        return f"PerParameter({self.estimator!r}, {self.follower!r})"

    def start(self, form: Form) -> Memory:
        """Give the estimator's memory and the follower's; ``is_fresh`` and ``refused`` ``[B]``.

        The factors themselves, ``places`` and ``factors`` ``[B, n]``, come with the first step and outlast a restore.

        Args:
            form: what there is.

        Returns:
            The memory.
        """
        row = torch.zeros_like(form.weights).detach()
        none = torch.zeros(len(row), dtype=torch.int64, device=row.device)
        return {
            **self.estimator.start(form),
            "follower": self.follower.start(row),
            **{"update": row, "is_fresh": none.bool(), "refused": none},
        }

    def follow(self, step: Step, memory: Memory, *, is_due: bool) -> Memory:
        """Turn the factors by what the last due step taught; let the estimator see this one."""
        if "factors" not in memory:
            memory = {**memory, "places": torch.zeros_like(step.after), "factors": torch.ones_like(step.after)}
        step = replace(step, factors=memory["factors"]) if step.factors is None else step
        if bool(memory["is_fresh"].any()):
            memory = self._turned(step, memory)
        if is_due or self.estimator.is_running:
            memory = {**memory, **self.estimator.follow(step, memory, is_due=is_due)}
        update = step.after - step.weights if is_due else memory["update"]
        return {**memory, "update": update, "is_fresh": torch.full_like(memory["is_fresh"], is_due)}

    def read(self, memory: Memory, grad: Tensor, layout: Layout) -> Tensor:
        """Give the sites' hypergradient, as the estimator does."""
        return self.estimator.read(memory, grad, layout)

    def _turned(self, step: Step, memory: Memory) -> Memory:
        """Move the factors of members whose slope is new."""
        slope = self.estimator.rates(memory, step.grad)
        tells = slope.isfinite()
        size = step.grad.abs() * memory["update"].abs()
        unit = torch.tensor(math.log(10), dtype=slope.dtype, device=slope.device)
        change, follower = self.follower.change(torch.where(tells, slope, 0.0), unit, size, memory["follower"])
        knob = step.panel[step.panel.names.index("lr")]
        most = knob.rate / math.log(10)
        rate = step.layout.spread(step.values[..., step.panel.names.index("lr")]).clamp(knob.low, knob.high)
        places = memory["places"] + change.clamp(-most, most)
        places = places.clamp((knob.low / rate).log10().to(places), (knob.high / rate).log10().to(places))
        new = {"places": places, "factors": 10**places, "follower": follower}
        mine = memory["is_fresh"]
        kept = select(mine, new, {name: memory[name] for name in new})
        return {**memory, **kept, "refused": memory["refused"] + mine * (~tells).sum(1)}


def shown(memory: Memory | None) -> dict[str, float]:
    """Give what a logger wants of an estimator's memory.

    Args:
        memory: its own, of one live run.

    Returns:
        ``trimtab/factor_low``, ``_median`` and ``_high``: the 10th, 50th and 90th percentile of the parameters'
        factors; ``trimtab/factors_refused``. Empty where no parameter has a factor.
    """
    if memory is None or "factors" not in memory:
        return {}
    ordered = memory["factors"][0].sort().values
    at: list[Any] = [ordered[round(q * (len(ordered) - 1))] for q in (0.1, 0.5, 0.9)]
    names = ("factor_low", "factor_median", "factor_high")
    found = {f"trimtab/{name}": float(value) for name, value in zip(names, at, strict=True)}
    return found | {"trimtab/factors_refused": float(memory["refused"].sum())}
