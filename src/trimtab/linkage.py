"""Linkage: carries a panel's values to an optimizer's parameter groups and back.

Letters: ``S`` sites, ``K`` knobs, ``G`` parameter groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.knobs import Knob, Panel

BETAS = {"beta1": 0, "beta2": 1}


class Linkage:
    """Carries a panel's values to an optimizer's parameter groups, keeping what sets the groups apart.

    Every group has a value of its own for each knob (`base`): what the user, or a wrapped schedule, put there. A site's
    value reaches a group as the change it makes to the site's starting value: the same factor on a log scale, the same
    factor on ``1 - v``, the same difference on a linear scale. So ratios between groups are kept, a 0 stays 0 on a log
    scale, and a value nobody turned is written back bit for bit.

    Groups are looked up each time and never kept: frameworks replace them. Tensor hyperparameters are filled in place,
    so that compiled optimizers are not compiled again.

    Args:
        panel: the knobs.
        optimizer: anything with ``param_groups``.
        sites: for each site the indices of its groups; every group in one site at most.
        scheduled: a schedule sets the learning rates: one that is 0 now, in a warm-up's first step, starts from the
            schedule's ``initial_lr``.

    Raises:
        KnobError: a group has no such hyperparameter, its value is not a finite number of at least 0, or a knob on a
            log scale is 0 in every group of a site.
    """

    def __init__(
        self, panel: Panel, optimizer: Any, sites: Sequence[Sequence[int]], *, scheduled: bool = False
    ) -> None:
        self.panel = panel
        self.sites = tuple(tuple(site) for site in sites)
        self._optimizer = optimizer
        self.base = self.present()
        nominal = [
            [_nominal(group, knob, v) if scheduled else v for knob, v in zip(panel, row, strict=True)]
            for group, row in zip(optimizer.param_groups, self.base, strict=True)
        ]
        self._references = [[_reference(nominal, knob, k, site) for k, knob in enumerate(panel)] for site in self.sites]
        self.start = self._at_references(nominal)  # [S, K]
        before = [[_field(group, knob) for knob in panel] for group in optimizer.param_groups]
        self._before, self._like = before, [[_tensor_like(field) for field in row] for row in before]
        _separate_tensors(optimizer.param_groups, panel, keep_first=False)
        self._hook: Any = None
        if isinstance(optimizer, torch.optim.Optimizer):
            self._hook = optimizer.register_load_state_dict_post_hook(lambda loaded: self._mend())

    def present(self) -> list[list[float]]:
        """Give ``[G][K]``: what each group's knobs are set to now."""
        return [[_value(group, g, knob) for knob in self.panel] for g, group in enumerate(self._optimizer.param_groups)]

    def read(self) -> Tensor:
        """Give ``[S, K]`` float64: what each knob is set to now in its site's reference group."""
        return self._at_references(self.present())

    def alone(self) -> Tensor:
        """Give ``[S, K]`` float64: what the user, or a wrapped schedule, has put into each site's reference group."""
        return self._at_references(self.base)

    def write(self, values: Sequence[Sequence[float]]) -> None:
        """Set ``[S][K]`` values: each group gets its base, changed as its site's value is from the start."""
        for site, row, start in zip(self.sites, values, self.start.tolist(), strict=True):
            for g in site:
                for k, knob in enumerate(self.panel):
                    self._put(g, knob, _changed(knob, self.base[g][k], row[k], start[k]))

    def restore(self) -> None:
        """Set every group to its base, bit for bit."""
        for site in self.sites:
            for g in site:
                for k, knob in enumerate(self.panel):
                    self._put(g, knob, self.base[g][k])

    def follow(self) -> None:
        """Take what the groups are set to now, whatever it is, as their base: a schedule has just set it."""
        for g, row in enumerate(self.base):
            group = self._optimizer.param_groups[g]
            row[:] = [float(read_field(group, k.name) if k.get is None else k.get()) for k in self.panel]

    def unhook(self) -> None:
        """Mend no more what a checkpoint puts into the groups."""
        if self._hook is not None:
            self._hook.remove()

    def release(self) -> None:
        """Let go of an optimizer whose pilot was not to be: it gets back the very tensors it had."""
        self.unhook()
        for group, row in zip(self._optimizer.param_groups, self._before, strict=True):
            for knob, field in zip(self.panel, row, strict=True):
                if isinstance(field, Tensor):
                    _replace_field(group, knob.name, field)

    def _put(self, g: int, knob: Knob, value: float) -> None:
        if knob.set is not None:
            knob.set(value)
        else:
            write_field(self._optimizer.param_groups[g], knob.name, value)

    def _at_references(self, present: Sequence[Sequence[float]]) -> Tensor:
        rows = [[present[g][k] for k, g in enumerate(references)] for references in self._references]
        return torch.tensor(rows, dtype=torch.float64)

    def _mend(self) -> None:
        """Put right what a checkpoint did to tensors: a float in one's place, or one tensor for several groups."""
        for group, row in zip(self._optimizer.param_groups, self._like, strict=False):
            for knob, like in zip(self.panel, row, strict=True):
                field = _field(group, knob)
                # torch refuses tensors in foreach steps unless they are capturable
                can_hold = bool(group.get("capturable")) or not group.get("foreach")
                if like is not None and can_hold and isinstance(field, float | int):
                    _replace_field(group, knob.name, torch.full_like(like, field))
        _separate_tensors(self._optimizer.param_groups, self.panel, keep_first=True)


def read_field(group: dict[str, Any], name: str) -> Any:
    """Read a hyperparameter of a parameter group; "beta1" and "beta2" lie inside ``betas``.

    Args:
        group: one of ``optimizer.param_groups``.
        name: the hyperparameter.

    Returns:
        It as it is: a number or a tensor.

    Raises:
        KnobError: the group has none of that name.
    """
    if name in BETAS and "betas" in group:
        return group["betas"][BETAS[name]]
    if name in group:
        return group[name]
    fields = ", ".join(sorted(field for field in group if field != "params"))
    raise KnobError(
        f"A parameter group has no hyperparameter {name!r} (it has {fields}): leave the knob out, or give it `get` and "
        f"`set`."
    )


def write_field(group: dict[str, Any], name: str, value: float) -> None:
    """Set a hyperparameter of a parameter group; a tensor is filled in place."""
    field = read_field(group, name)
    if isinstance(field, Tensor):
        field.fill_(value)
    else:
        _replace_field(group, name, value)


def _replace_field(group: dict[str, Any], name: str, entry: float | Tensor) -> None:
    if name in BETAS and "betas" in group:
        betas = list(group["betas"])
        betas[BETAS[name]] = entry
        group["betas"] = type(group["betas"])(betas)
    else:
        group[name] = entry


def _value(group: dict[str, Any], index: int, knob: Knob) -> float:
    raw = read_field(group, knob.name) if knob.get is None else knob.get()
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not math.isfinite(value) or (value < 0 and knob.scale == "log"):
        raise KnobError(f"Knob {knob.name!r} must be a finite number of at least 0 in group {index}, got {raw!r}.")
    if knob.scale == "one_minus_log" and value >= 1:
        raise KnobError(f"Knob {knob.name!r} must be below 1 in group {index}, got {raw!r}.")
    return value


def _changed(knob: Knob, base: float, value: float, start: float) -> float:
    """Change a group's base as its site's value is changed; not beyond the bounds that the base keeps itself."""
    if value == start:
        return base
    if base == start:
        return value
    if knob.scale == "log":
        return base * (value / start)
    turned = base + (value - start) if knob.scale == "linear" else 1 - (1 - base) * ((1 - value) / (1 - start))
    return min(max(turned, min(knob.low, base)), max(knob.high, base))


def _field(group: dict[str, Any], knob: Knob) -> Any:
    return read_field(group, knob.name) if knob.get is None else None


def _tensor_like(field: Any) -> Tensor | None:
    return torch.empty_like(field) if isinstance(field, Tensor) else None


def _nominal(group: dict[str, Any], knob: Knob, value: float) -> float:
    """Give a value, or, where a schedule's warm-up begins at 0, what it warms up to."""
    return float(group.get("initial_lr", value)) if knob.name == "lr" and value == 0 else value


def _reference(base: Sequence[Sequence[float]], knob: Knob, k: int, site: Sequence[int]) -> int:
    """Give the group that a site's value is read from: the first whose knob is not 0."""
    for g in site:
        if knob.scale != "log" or base[g][k] != 0:
            return g
    raise KnobError(
        f"Knob {knob.name!r} is 0 in every group it should turn, and a log scale cannot leave 0: set it above 0, "
        f"leave it out of `knobs`, or give Knob({knob.name!r}, 0.0, high, 'linear')."
    )


def _separate_tensors(groups: list[dict[str, Any]], panel: Panel, *, keep_first: bool) -> None:
    """Give each group its own tensor where several share one; without `keep_first` also where the caller holds it."""
    seen: set[int] = set()
    for group in groups:
        for knob in panel:
            field = read_field(group, knob.name) if knob.get is None else None
            if not isinstance(field, Tensor):
                continue
            if not keep_first or id(field) in seen:
                field = field.clone()
                _replace_field(group, knob.name, field)
            seen.add(id(field))
