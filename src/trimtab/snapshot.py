"""Snapshot: a verified state of a live run to go back to.

Holds parameters, the optimizer's slots and, where the model is known, its buffers. On an accelerator the copy lies in
pinned memory of the host.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import StateError

State = dict[str, Any]


class Snapshot:
    """Copies a run's state aside in two moves: hold it before a step, keep it once the step's loss was seen good.

    Args:
        optimizer: the raw optimizer; its parameters and their slots are copied.
        model: gives the buffers (batch norm's statistics); None: they are neither copied nor restored.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module | None) -> None:
        self._optimizer, self._model = optimizer, model
        self._held: State | None = None
        self.kept: State | None = None

    @torch.no_grad()
    def hold(self) -> None:
        """Copy the state now, in place of what was held and not kept."""
        slots = self._optimizer.state
        self._held = {
            "params": [_copied(p.detach()) for p in self._params()],
            "slots": [{name: _copied(v) for name, v in slots[p].items()} if p in slots else {} for p in self._params()],
            "buffers": [] if self._model is None else [_copied(b) for b in self._model.buffers()],
        }

    def keep(self) -> None:
        """Make what is held the snapshot; nothing happens where nothing is held."""
        if self._held is not None:
            self.kept, self._held = self._held, None

    def drop(self) -> None:
        """Forget what is held."""
        self._held = None

    def load(self, kept: State | None) -> None:
        """Take a snapshot from a checkpoint; None: the state now is the snapshot."""
        self._held = None
        self.kept = kept
        if kept is None:
            self.hold()
            self.keep()

    @torch.no_grad()
    def restore(self) -> None:
        """Put the snapshot back, in place.

        Raises:
            StateError: there is none, or it was taken of other parameters.
        """
        if self.kept is None:
            raise StateError("There is no snapshot to restore: none has been kept yet.")
        params = self._params()
        if [p.shape for p in params] != [q.shape for q in self.kept["params"]]:
            raise StateError(
                f"The snapshot holds {len(self.kept['params'])} parameters, the optimizer has {len(params)}, or their "
                f"shapes differ: it was taken of another model."
            )
        for param, saved, slots in zip(params, self.kept["params"], self.kept["slots"], strict=True):
            param.copy_(saved)
            self._restore_slots(param, slots)
        if self._model is not None:
            for buffer, saved in zip(self._model.buffers(), self.kept["buffers"], strict=True):
                buffer.copy_(saved)

    def _restore_slots(self, param: Tensor, saved: dict[str, Any]) -> None:
        if not saved and param not in self._optimizer.state:
            return
        live = self._optimizer.state[param]
        for name in [name for name in live if name not in saved]:
            del live[name]
        for name, value in saved.items():
            if isinstance(value, Tensor) and isinstance(live.get(name), Tensor):
                live[name].copy_(value)
            elif isinstance(value, Tensor):
                live[name] = value.clone() if value.dim() == 0 else value.to(param.device, copy=True)
            else:
                live[name] = copy.deepcopy(value)

    def _params(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.device.type != "cuda":
        return value.detach().clone()
    pinned = torch.empty_like(value, device="cpu", pin_memory=True)
    return pinned.copy_(value, non_blocking=True)
