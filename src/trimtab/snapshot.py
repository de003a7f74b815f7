"""Snapshot: a verified state of a live run to go back to.

Holds parameters, the optimizer's slots, what it counts in its groups (Prodigy's distance, Schedule-Free's weights),
where the model is known, its buffers, and the average, where one is kept. On an accelerator the copy lies in pinned
memory of the host.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.aside import aside
from trimtab.average import Average
from trimtab.checkpoint import copied
from trimtab.errors import StateError
from trimtab.guard import Verdict
from trimtab.judgement import RISEN

State = dict[str, Any]
PARTS = ("params", "slots", "groups", "buffers", "average")
# what is set from outside, by a user, a schedule or a pilot, is no state to go back to
SET_FROM_OUTSIDE = frozenset({"params", "lr", "initial_lr", "betas", "momentum", "weight_decay", "eps"})


class Snapshot:
    """Copies a run's state aside in two moves: hold it before a step, keep it once the step's loss was seen good.

    Args:
        optimizer: the raw optimizer; its parameters and their slots are copied.
        model: gives the buffers (batch norm's statistics); None: they are neither copied nor restored.
        average: of the model's weights, which goes back with them; None: none is kept.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module | None, average: Average | None = None
    ) -> None:
        self._optimizer, self._model, self._average = optimizer, model, average or Average(None)
        self._held: State | None = None
        self.kept: State | None = None

    @torch.no_grad()
    def hold(self) -> None:
        """Copy the state now, in place of what was held and not kept."""
        slots = self._optimizer.state
        self._held = {
            "params": [aside(p.detach()) for p in self._params()],
            "slots": [{name: aside(v) for name, v in slots[p].items()} if p in slots else {} for p in self._params()],
            "groups": [_counted(group) for group in self._optimizer.param_groups],
            "buffers": [] if self._model is None else [aside(b) for b in self._model.buffers()],
            "average": [aside(t.detach()) for t in self._average.tensors()],
        }

    def keep(self) -> None:
        """Make what is held the snapshot; nothing happens where nothing is held."""
        if self._held is not None:
            self.kept, self._held = self._held, None

    def obey(self, verdict: Verdict) -> None:
        """Do as the guard says of a run of one member: go back, keep what is held, or neither.

        Where the validation loss rose and an average is kept, it goes back to the snapshot's average: that was judged.
        """
        if bool(verdict.restore):
            self.restore()
            if int(verdict.reason) == RISEN:
                self._average.put()
        if bool(verdict.keep):
            self.keep()
        self.drop()

    def drop(self) -> None:
        """Forget what is held."""
        self._held = None

    def begins(self) -> bool:
        """Keep the state now if there is no snapshot of as many parameters as the optimizer has.

        Returns:
            Whether so: at the first step, after a load, and where parameters were added.
        """
        groups = self._optimizer.param_groups
        if self.kept is not None and len(self.kept["params"]) == sum([len(group["params"]) for group in groups]):
            return False
        self.hold()
        self.keep()
        return True

    def check(self, kept: State) -> None:
        """Refuse a snapshot that was taken of another model.

        Args:
            kept: one from a checkpoint.

        Raises:
            StateError: its parameters, slots or buffers are not as many, or of other shapes.
        """
        kept = kept | {"average": kept.get("average", [])}  # older ones do not name it
        if kept.keys() != set(PARTS):
            raise StateError(f"A snapshot must have {', '.join(PARTS)}, got {', '.join(sorted(map(str, kept)))}.")
        buffers = [] if self._model is None else list(self._model.buffers())
        lives = {"params": self._params(), "buffers": buffers, "average": self._average.tensors()}
        for name, live in lives.items():
            found, expected = [t.shape for t in kept[name]], [t.shape for t in live]
            if found != expected:
                raise StateError(
                    f"The snapshot holds {len(found)} {name}, this run has {len(expected)}, or their shapes differ: it "
                    f"was taken of another model."
                )
        if len(kept["groups"]) != len(self._optimizer.param_groups):
            raise StateError(
                f"The snapshot holds {len(kept['groups'])} groups, this run has {len(self._optimizer.param_groups)}."
            )
        if len(kept["slots"]) != len(kept["params"]):
            raise StateError(f"The snapshot holds {len(kept['params'])} params, and slots of {len(kept['slots'])}.")

    def load(self, kept: State | None) -> None:
        """Take a snapshot from a checkpoint; None: the next step begins with a new one."""
        self._held, self.kept = None, None if kept is None else kept | {"average": kept.get("average", [])}

    @torch.no_grad()
    def restore(self) -> None:
        """Put the snapshot back, in place.

        Raises:
            StateError: there is none, or it was taken of other parameters.
        """
        if self.kept is None:
            raise StateError("There is no snapshot to restore: none has been kept yet.")
        self.check(self.kept)
        for param, saved, slots in zip(self._params(), self.kept["params"], self.kept["slots"], strict=True):
            param.copy_(saved)
            self._restore_slots(param, slots)
        for group, saved in zip(self._optimizer.param_groups, self.kept["groups"], strict=True):
            for name, value in saved.items():
                _put(group, name, value)
        if self._model is not None:
            for buffer, saved in zip(self._model.buffers(), self.kept["buffers"], strict=True):
                buffer.copy_(saved)
        for tensor, saved in zip(self._average.tensors(), self.kept["average"], strict=True):
            tensor.copy_(saved)

    def _restore_slots(self, param: Tensor, saved: dict[str, Any]) -> None:
        if not saved:
            self._optimizer.state.pop(param, None)
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


def _counted(group: dict[str, Any]) -> dict[str, Any]:
    """Copy the numbers that an optimizer may count up in a group of its own."""
    numbers = {name: value for name, value in group.items() if isinstance(value, int | float | Tensor)}
    return {name: copied(value) for name, value in numbers.items() if name not in SET_FROM_OUTSIDE}


def _put(group: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, Tensor) and isinstance(group.get(name), Tensor):
        group[name].copy_(value)
    else:
        group[name] = copied(value)
