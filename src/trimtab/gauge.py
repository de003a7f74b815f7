"""Gauge: the live end. A torch optimizer and its losses to signals, one member.

The pilot's step pre-hook calls :meth:`Gauge.look` when gradients are final (clipped, unscaled, reduced) and weights not
yet moved. Statistics stay on the device until a decision; one vector then crosses to the host.

Letters: ``S`` sites, ``K`` knobs, ``m`` sampled coordinates, ``W`` steps since the last reading.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import SignalError
from trimtab.knobs import Panel
from trimtab.linkage import read_field
from trimtab.probe import SAMPLE, STATISTICS, Probe
from trimtab.rules import Rule, rule_of, tangents
from trimtab.signals import Signals, is_reading


class Gauge:
    """Measures a live optimizer.

    Args:
        optimizer: the raw optimizer.
        panel: the knobs.
        sites: for each site the indices of its parameter groups.
        every: steps between readings.
        needs: what the controller needs; with ``"hypergrad"`` the optimizer must have a rule twin.
        sample: the most coordinates measured of a site.

    Raises:
        SignalError: a site has no parameters.
        TaskError: a hypergradient is asked for and the optimizer has no rule twin.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        panel: Panel,
        sites: Sequence[Sequence[int]],
        *,
        every: int,
        needs: frozenset[str] = frozenset(),
        sample: int = SAMPLE,
    ) -> None:
        self._optimizer, self._panel, self._every = optimizer, panel, every
        self._sites = tuple(tuple(site) for site in sites)
        self._rule: Rule | None = rule_of(optimizer) if "hypergrad" in needs else None
        groups = optimizer.param_groups
        sizes = [[_local(p).numel() for g in site for p in groups[g]["params"]] for site in self._sites]
        device = next((p.device for p in self._params()), torch.device("cpu"))
        self._probe = Probe(sizes, device, sample)
        self._last: tuple[Tensor, Tensor] | None = None
        self._first: Tensor | None = None
        self._tangents: list[Tensor] | None = None
        self._pending: Tensor | None = None
        self._losses: list[Tensor | float] = []
        self._warned = False

    @property
    def is_ready(self) -> bool:
        """Whether a reading waits to be taken."""
        return self._pending is not None

    @torch.no_grad()
    def look(self, number: int) -> None:
        """Measure what optimizer step `number` (from 1) finds; called in the step pre-hook.

        Args:
            number: the step about to be taken.
        """
        reads, leads = is_reading(number, self._every), is_reading(number + 1, self._every)
        if not reads and not leads:
            return
        grads = self._grads()
        weight = self._probe.sample([_local(p).reshape(1, -1) for p in self._params()])
        grad = self._probe.sample([g.reshape(1, -1) for g in grads])
        if reads:
            self._pending = self._measure(weight, grad, grads)
        if leads:
            self._last = (weight, grad)
            if self._rule is not None:
                self._tangents = self._take_tangents(self._rule, grads)

    def add(self, loss: Tensor | float) -> None:
        """Take a step's loss; does not synchronise."""
        self._losses.append(loss.detach() if isinstance(loss, Tensor) else loss)

    @torch.no_grad()
    def read(self, number: int, values: Tensor, val_loss: float | None) -> Signals:
        """Take the reading that waits: the one transfer to the host.

        Args:
            number: the step it belongs to.
            values: ``[S, K]`` knob values that the step used.
            val_loss: measured after the step, NaN where not this time, None where never.

        Returns:
            Signals with ``B = 1``.

        Raises:
            SignalError: no reading waits.
        """
        if self._pending is None:
            raise SignalError("No reading waits: the optimizer has not stepped since the last one.")
        device = self._pending.device
        losses = torch.stack([torch.as_tensor(x, dtype=torch.float64).reshape(()).to(device) for x in self._losses])
        vector = _reduced(torch.cat([losses, self._pending.reshape(-1).to(torch.float64)])).cpu()
        window, flat = vector[: len(losses)], vector[len(losses) :]
        self._losses, self._pending = [], None
        sites = len(self._sites)
        split = flat[: len(STATISTICS) * sites].reshape(len(STATISTICS), sites)
        named: dict[str, Any] = {name: row[None] for name, row in zip(STATISTICS, split, strict=True)}
        if self._rule is not None:
            named["hypergrad"] = flat[len(STATISTICS) * sites :].reshape(1, sites, len(self._panel))
        return Signals(
            step=torch.tensor([number]),
            losses=window[None],
            values=values[None],
            val_loss=None if val_loss is None else torch.tensor([val_loss], dtype=torch.float64),
            **named,
        )

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs to measure on exactly; its keys are always the same."""
        width = self._probe.width
        empty = torch.full((1, width), torch.nan)
        last = self._last or (empty, empty)
        return {
            "last_weight": last[0].clone(),
            "last_grad": last[1].clone(),
            "first": (empty if self._first is None else self._first).clone(),
            "seen": torch.tensor([self._last is not None, self._first is not None]),
            "losses": torch.tensor([float(x) for x in self._losses], dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: what `state_dict` gave.

        Raises:
            SignalError: it was taken of a model of another size.
        """
        if state["first"].shape != (1, self._probe.width):
            raise SignalError(
                f"The saved gauge sampled {state['first'].shape[-1]} coordinates, this model gives {self._probe.width}:"
                f" the checkpoint is of another model or other sites."
            )
        device = next(iter(self._params())).device
        has_last, has_first = state["seen"].tolist()
        pair = (state["last_weight"].to(device), state["last_grad"].to(device))
        self._last = pair if has_last else None
        self._first = state["first"].to(device) if has_first else None
        self._losses = list(state["losses"].tolist())
        self._pending, self._tangents = None, None

    def _params(self) -> list[Tensor]:
        groups = self._optimizer.param_groups
        return [p for site in self._sites for g in site for p in groups[g]["params"]]

    def _grads(self) -> list[Tensor]:
        """Give each parameter's gradient, local, dense, in the loss's unit; zeros where there is none."""
        scale = getattr(self._optimizer, "grad_scale", None)  # set by GradScaler around fused optimizers only
        grads = []
        for p in self._params():
            g = torch.zeros_like(_local(p)) if p.grad is None else _local(p.grad)
            g = g.to_dense() if g.is_sparse else g
            grads.append(g if scale is None else g / scale)
        if not self._warned and all(p.grad is None for p in self._params()):
            self._warned = True
            warnings.warn(
                "No parameter has a gradient when the optimizer steps (is it stepped inside backward?): only the loss "
                "informs the controller.",
                RuntimeWarning,
                stacklevel=2,
            )
        return grads

    def _measure(self, weight: Tensor, grad: Tensor, grads: list[Tensor]) -> Tensor:
        """``[9 S (+ S K)]`` statistics, on the device."""
        self._first = weight.clone() if self._first is None else self._first
        last_weight, last_grad = self._last or (weight, torch.zeros_like(grad))
        measured = self._probe.measure(weight, grad, last_weight, last_grad, self._first).reshape(-1)
        if self._rule is None:
            return measured
        return torch.cat([measured, self._hypergrad(grads).reshape(-1).to(measured)])

    def _hypergrad(self, grads: list[Tensor]) -> Tensor:
        """``[S, K]`` d loss / d value of the knobs that the last update used."""
        if self._tangents is None:
            return torch.zeros(len(self._sites), len(self._panel), dtype=torch.float64)
        products = [
            (t * g).to(torch.float64).flatten(1).sum(1) for t, g in zip(self._tangents, grads, strict=True)
        ]  # [K] a parameter
        counts = [sum(len(self._optimizer.param_groups[g]["params"]) for g in site) for site in self._sites]
        return torch.stack([torch.stack(part).sum(0) for part in _chunks(products, counts)])

    def _take_tangents(self, rule: Rule, grads: list[Tensor]) -> list[Tensor]:
        """``[K, ...]`` d weights / d value for each parameter, of the step about to be taken."""
        rows = []
        at = iter(grads)
        for site in self._sites:
            for g in site:
                group = self._optimizer.param_groups[g]
                for p in group["params"]:
                    values = {n: torch.as_tensor(read_field(group, n)).to(p) for n in rule.defaults}
                    slots = rule.slots_of(self._optimizer, p)
                    rows.append(tangents(rule, next(at), slots, p.detach(), values, self._panel.names))
        return rows


def _chunks(items: list[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    at = iter(items)
    return [[next(at) for _ in range(count)] for count in counts]


def _local(tensor: Tensor) -> Tensor:
    """Give this rank's part of a sharded tensor, or the tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _reduced(vector: Tensor) -> Tensor:
    """Average one small vector over the ranks, so that all decide alike; the vector itself without them."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return vector
    distributed.all_reduce(vector)
    return vector / distributed.get_world_size()
