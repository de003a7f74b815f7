"""Transformers: a callback that tells a pilot its losses, and the Trainer's logs what the pilot did.

The pilot itself is the scheduler in ``Trainer(optimizers=(optimizer, pilot))``: the Trainer steps, saves and loads it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimtab.errors import OrderError
from trimtab.fit.framework import needed
from trimtab.pilot import Pilot
from trimtab.ranks import world

with needed("transformers", "hf"):
    from transformers import TrainerCallback


class PilotCallback(TrainerCallback):  # type: ignore[misc]  # untyped where Transformers is not installed
    """Goes into ``Trainer(callbacks=[PilotCallback(pilot)])`` beside ``optimizers=(optimizer, pilot)``.

    No callback of the Trainer's is told the loss: it is taken from the model's outputs. A model or a function of yours
    that puts the loss elsewhere tells the pilot itself, by ``pilot.note(loss)`` before the optimizer steps. What the
    Trainer logs, its history and every reporter behind this callback get ``pilot.metrics()``.

    Args:
        pilot: attached to the optimizer that the Trainer is given.
    """

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot
        self._losses: list[Tensor] = []
        self._is_split = False  # losses are sums over micro-batches, divided by the whole batch's number of tokens
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to listen to the model.

        Args:
            args: the Trainer's.
            state: the Trainer's.
            control: the Trainer's.
            kwargs: of these, the model and the scheduler are used.

        Raises:
            OrderError: the Trainer has another scheduler than the pilot.
        """
        if kwargs["lr_scheduler"] is not self._pilot:
            raise OrderError(
                f"The Trainer must step the pilot as its scheduler: Trainer(optimizers=(optimizer, pilot), ...), got "
                f"{type(kwargs['lr_scheduler']).__name__}."
            )
        self.on_train_end(args, state, control)
        self._hook = kwargs["model"].register_forward_hook(self._listen, with_kwargs=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Listen no more."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a new optimizer step, before the first of its micro-batches."""
        self._losses.clear()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the pilot the loss of the step that is about to be taken."""
        if not self._losses:
            return
        whole = torch.stack(self._losses).sum() if len(self._losses) > 1 else self._losses[0]
        share = world() if args.average_tokens_across_devices else 1  # tokens are counted over all ranks, or this one's
        self._pilot.note(whole * share if self._is_split else whole / len(self._losses))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the pilot's metrics to the training's logs and history."""
        if logs is not None and "learning_rate" in logs:
            metrics = self._pilot.metrics()
            logs.update(metrics)
            state.log_history[-1].update(metrics)

    def _listen(self, model: Any, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)
        if model.training and isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach().reshape(()))
            self._is_split = kwargs.get("num_items_in_batch") is not None
