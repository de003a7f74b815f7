"""Gauge: the live end. A torch optimizer and its losses to signals, one member.

The pilot's step pre-hook calls :meth:`Gauge.look` when gradients are final (clipped, unscaled, reduced) and weights not
yet moved. Statistics stay on the device until a decision; one vector then crosses to the host.

Letters: ``S`` sites, ``K`` knobs, ``m`` sampled coordinates, ``W`` steps since the last reading.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.checkpoint import copied, fitted
from trimtab.errors import SignalError
from trimtab.knobs import Panel
from trimtab.probe import SAMPLE, STATISTICS, Probe
from trimtab.ranks import averaged, local, shards, share
from trimtab.signals import Signals, is_reading

if TYPE_CHECKING:
    from trimtab.hypergrad.estimator import Memory
    from trimtab.hypergrad.recorder import Before, Recorder


class Gauge:
    """Measures a live optimizer.

    Args:
        optimizer: the raw optimizer.
        panel: the knobs.
        sites: for each site the indices of its parameter groups.
        every: steps between readings.
        recorder: gives steps that an estimator follows; None: readings carry no hypergradient.
        sample: the most coordinates measured of a site.

    Raises:
        SignalError: a site has no parameters, or a hypergradient is asked for of complex or sharded ones.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        panel: Panel,
        sites: Sequence[Sequence[int]],
        *,
        every: int,
        recorder: Recorder | None = None,
        sample: int = SAMPLE,
    ) -> None:
        self._optimizer, self._panel, self._every = optimizer, panel, every
        self._sites, self._recorder = tuple(tuple(site) for site in sites), recorder
        groups = optimizer.param_groups
        self._shards = shards(self._params())
        if recorder is not None and (self._shards is not None or any(p.is_complex() for p in self._params())):
            raise SignalError(
                "A hypergradient cannot be measured of sharded or complex parameters: choose another one."
            )
        sizes = [[local(p).numel() for g in site for p in groups[g]["params"]] for site in self._sites]
        if self._shards is not None:  # this rank may hold nothing of a small site: one zero stands for it
            sizes = [[*site, 1] for site in sizes]
        device = next((p.device for p in self._params()), torch.device("cpu"))
        self._probe = Probe(sizes, device, sample)
        self._last: tuple[Tensor, Tensor] | None = None
        self._first: Tensor | None = None
        self._before: Before | None = None
        self._memory: Memory | None = None
        self._pending: Tensor | None = None
        self._losses: list[Tensor | float] = []
        self._warned = False

    @property
    def is_ready(self) -> bool:
        """Whether a reading waits to be taken."""
        return self._pending is not None

    def look(self, number: int) -> None:
        """Measure what optimizer step `number` (from 1) finds; called in the step pre-hook.

        Args:
            number: the step about to be taken.
        """
        reads, leads = is_reading(number, self._every), is_reading(number + 1, self._every)
        if (follows := self._follows(number)) or reads or leads:
            self._look(reads=reads, leads=leads, follows=follows)

    @torch.no_grad()
    def _look(self, *, reads: bool, leads: bool, follows: bool) -> None:
        params = self._params()
        grads = self._grads(params)
        weight = self._sample([local(p) for p in params])
        grad = self._sample(grads)
        if reads:
            self._pending = self._measure(weight, grad, grads)
        if leads:
            self._last = (weight, grad)
        if follows and self._recorder is not None:
            self._before = self._recorder.hold(self._by_group(grads), self._memory)

    def follow(self, number: int, batch: Any = None) -> None:
        """Let the estimator see step `number`, which has just been taken; does nothing where it does not want to.

        Args:
            number: the step.
            batch: what `loss_fn` is called with, if anything.
        """
        recorder, before = self._recorder, self._before
        if recorder is None or before is None:
            return
        memory = recorder.estimator.start(recorder.form()) if self._memory is None else self._memory
        step = recorder.step(before, batch)
        self._memory = recorder.estimator.follow(step, memory, is_due=is_reading(number + 1, self._every))
        self._before = None

    def forget(self) -> None:
        """Let the estimator begin anew: the weights were put elsewhere."""
        if self._recorder is not None and self._memory is not None:
            self._memory = self._recorder.begun_again(self._memory)

    def metrics(self) -> dict[str, float]:
        """Give what a logger wants of the estimator."""
        return {} if self._recorder is None else self._recorder.shown(self._memory)

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
        losses = _stacked(self._losses, device)
        val = torch.tensor(_told(val_loss), dtype=torch.float64, device=device)
        statistics = self._pending.reshape(-1).to(torch.float64) * (self._shards or 1)
        vector = averaged(torch.cat([losses, val, statistics])).cpu()
        window, told, flat = vector.tensor_split([len(losses), len(losses) + len(val)])
        self._losses, self._pending = [], None
        sites = len(self._sites)
        split = flat[: len(STATISTICS) * sites].reshape(len(STATISTICS), 1, sites)
        named: dict[str, Any] = dict(zip(STATISTICS, split.unbind(), strict=True))
        if self._recorder is not None:
            named["hypergrad"] = flat[len(STATISTICS) * sites :].reshape(1, sites, len(self._panel))
        return Signals(
            step=torch.tensor([number]),
            losses=window[None],
            values=values[None],
            val_loss=told[:1] / told[1:2] if told[2] > 0 else None,
            **named,
        )

    def release(self) -> None:
        """Take hooks off, and let go of the last step; what was measured stays."""
        self._before = None
        if self._recorder is not None:
            self._recorder.release()

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs to measure on exactly; its keys and shapes are always the same."""
        empty = self._sample([torch.full_like(local(p), torch.nan) for p in self._params()])
        last = self._last or (empty, empty)
        count, room = len(self._losses), max(self._every, 3)  # steps between readings: 3 from 4 to 7
        window = [float(x) for x in self._losses[-room:]]
        state = {
            "last_weight": last[0].clone(),
            "last_grad": last[1].clone(),
            "first": (empty if self._first is None else self._first).clone(),
            "seen": torch.tensor([self._last is not None, self._first is not None, self._memory is not None]),
            "losses": torch.tensor(window + [math.nan] * (room - len(window)), dtype=torch.float64),
            "count": torch.tensor(min(count, room)),
            "memory": {},
        }
        if self._recorder is not None:
            state["memory"] = copied(self._memory or self._recorder.estimator.start(self._recorder.form()))
        return {share(self._shards): state}

    def check(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """Give the part of a state that is this rank's, on its device; None where it was split over other ranks."""
        mine, place = self.state_dict(), share(self._shards)
        if state.keys().isdisjoint(mine):
            return None
        known, given = mine[place]["memory"], state[place]
        memory = given.get("memory", {}) if isinstance(given, dict) else {}
        later = {name: entry for name, entry in memory.items() if name not in known}  # batches, kept steps
        if isinstance(given, dict):
            given = {**given, "memory": {name: entry for name, entry in memory.items() if name in known}}
        found: dict[str, Any] = fitted({place: given}, {place: mine[place]}, "gauge")[place]
        return {**found, "memory": {**found["memory"], **copied(later)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: what `state_dict` gave; begins anew where it was split over other ranks.

        Raises:
            StateError: it was taken of a model of another size, or with another `every`.
        """
        found = self.check(state)
        self._pending, self._last, self._first, self._memory, self._losses = None, None, None, None, []
        if found is None:
            return
        has_last, has_first, has_memory = found["seen"].tolist()
        self._last = (found["last_weight"], found["last_grad"]) if has_last else None
        self._first = found["first"] if has_first else None
        self._memory = found["memory"] if has_memory else None
        self._losses = found["losses"][: int(found["count"])].tolist()

    def _sample(self, tensors: list[Tensor]) -> Tensor:
        """``[1, m]``: the sampled coordinates of tensors like the parameters."""
        pieces = [t.reshape(1, -1) for t in tensors]
        if self._shards is not None:
            counts = [sum(len(self._optimizer.param_groups[g]["params"]) for g in site) for site in self._sites]
            pieces = [t for site in _chunks(pieces, counts) for t in (*site, pieces[0].new_zeros(1, 1))]
        return self._probe.sample(pieces)

    def _params(self) -> list[Tensor]:
        groups = self._optimizer.param_groups
        return [p for site in self._sites for g in site for p in groups[g]["params"]]

    def _grads(self, params: list[Tensor]) -> list[Tensor]:
        """Give each parameter's gradient, local, dense, in the loss's unit; zeros where there is none."""
        scale = getattr(self._optimizer, "grad_scale", None)  # set by GradScaler around fused optimizers only
        grads = []
        for p in params:
            g = torch.zeros_like(local(p)) if p.grad is None else local(p.grad)
            grads.append(g if scale is None else g / scale)
        if not self._warned and all(p.grad is None for p in params):
            self._warned = True
            what = "No parameter has a gradient when the optimizer steps (is it stepped inside backward?)"
            warnings.warn(f"{what}: only the loss informs the controller.", RuntimeWarning, stacklevel=2)
        return grads

    def _measure(self, weight: Tensor, grad: Tensor, grads: list[Tensor]) -> Tensor:
        """``[9 S (+ S K)]`` statistics, on the device."""
        self._first = weight.clone() if self._first is None else self._first
        last_weight, last_grad = self._last or (weight, torch.zeros_like(grad))
        measured = self._probe.measure(weight, grad, last_weight, last_grad, self._first).reshape(-1)
        if self._recorder is None:
            return measured
        return torch.cat([measured, self._hypergrad(self._recorder, grads).reshape(-1).to(measured)])

    def _hypergrad(self, recorder: Recorder, grads: list[Tensor]) -> Tensor:
        """``[S, K]`` d loss / d value of the knobs that the last update used."""
        if self._memory is None:
            return torch.zeros(len(self._sites), len(self._panel), dtype=torch.float64)
        grad = recorder.row(self._by_group(grads))
        by_group = recorder.estimator.read(self._memory, grad, recorder.layout)[0]  # [G, K]
        return torch.stack([by_group[list(site)].sum(0) for site in self._sites])

    def _follows(self, number: int) -> bool:
        """Whether the estimator wants to see a step."""
        if self._recorder is None:
            return False
        return self._recorder.estimator.is_running or is_reading(number + 1, self._every)

    def _by_group(self, by_site: list[Tensor]) -> list[Tensor]:
        """Order what is in the sites' order as the optimizer's groups are."""
        at = iter(by_site)
        groups = self._optimizer.param_groups
        parts = {g: [next(at) for _ in groups[g]["params"]] for site in self._sites for g in site}
        return [tensor for g in range(len(groups)) for tensor in parts[g]]


def _stacked(losses: Sequence[Tensor | float], device: torch.device) -> Tensor:
    """``[W]`` float64; in few operations where they are alike, as they nearly always are."""
    alike = {(x.dtype, x.device, x.dim()) if isinstance(x, Tensor) else None for x in losses}
    if alike == {None} or len(alike) > 1:
        return torch.tensor([float(x) for x in losses], dtype=torch.float64, device=device)
    return torch.stack([x for x in losses if isinstance(x, Tensor)]).reshape(-1).to(device, torch.float64)


def _chunks(items: list[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    at = iter(items)
    return [[next(at) for _ in range(count)] for count in counts]


def _told(val_loss: float | None) -> list[float]:
    """Write a validation loss as a sum, a count and whether any is measured at all, to be averaged over ranks."""
    if val_loss is None:
        return [0.0, 0.0, 0.0]
    return [0.0, 0.0, 1.0] if math.isnan(val_loss) else [val_loss, 1.0, 1.0]
