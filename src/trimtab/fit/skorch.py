"""Skorch: a callback that attaches a pilot when training begins, and steps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab.fit.framework import needed
from trimtab.pilot import Pilot

with needed("skorch", "skorch"):
    from skorch.callbacks import Callback


class PilotCallback(Callback):  # type: ignore[misc]  # untyped where skorch is not installed
    """Goes into ``NeuralNet(callbacks=[PilotCallback(make_pilot)])``; the pilot is then its ``pilot_``.

    Each epoch's row of ``net.history`` has the pilot's metrics. ``pilot_.save`` and ``pilot_.load`` make and read
    checkpoints beside ``net.save_params``.

    Args:
        make_pilot: makes a pilot of the net's optimizer: ``lambda optimizer: trimtab.attach(optimizer, horizon=500)``.
    """

    def __init__(self, make_pilot: Callable[[Any], Pilot]) -> None:
        self.make_pilot = make_pilot

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Attach to the net's optimizer, once; a net that goes on training keeps its pilot."""
        if getattr(getattr(self, "pilot_", None), "optimizer", None) is not net.optimizer_:
            self.pilot_ = self.make_pilot(net.optimizer_)

    def on_batch_end(self, net: Any, batch: Any = None, training: Any = None, **kwargs: Any) -> None:
        """Step the pilot after each optimizer step."""
        if training:
            self.pilot_.step(kwargs["loss"])

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Write the pilot's metrics into the history."""
        for name, value in self.pilot_.metrics().items():
            net.history.record(name, value)
