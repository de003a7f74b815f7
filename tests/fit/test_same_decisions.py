"""Law: the same seed and data order gives the same decisions and weights, whoever runs the loop.

A small convolutional network on digits, trained plainly, by Lightning, Fabric, Transformers' Trainer, Accelerate,
skorch and Ignite: bit for bit, with gradients accumulated, clipped, in bfloat16, and with a batch to go back from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimtab

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # frameworks warn of much that is not ours

STEPS, SIZE = 24, 16


@dataclass(frozen=True)
class Way:
    """How gradients come about."""

    accumulate: int = 1
    clip: float | None = None
    bf16: bool = False
    spoilt: bool = False  # one batch is not a number: the guard goes back


WAYS = {
    "plain": Way(),
    "accumulated": Way(accumulate=2),
    "clipped": Way(clip=0.5),
    "bf16": Way(bf16=True),
    "spoilt": Way(spoilt=True),
    "all": Way(2, 0.5, True, True),
}


class Reader(nn.Module):
    """Digits' network, its loss computed inside, as Transformers wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trimtab.task_named("digits-cnn-v1").build(0)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Give the loss of images ``[n, 1, 8, 8]`` and classes ``[n]``."""
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


@functools.cache
def batches(way: Way) -> list[tuple[Tensor, Tensor]]:
    """Give micro-batches in the order that every loop takes them."""
    count = STEPS * way.accumulate
    x, y = trimtab.task_named("digits-cnn-v1").data("train")
    found = [(x[i * SIZE : (i + 1) * SIZE].clone(), y[i * SIZE : (i + 1) * SIZE]) for i in range(count)]
    if way.spoilt:
        found[count * 2 // 3][0].fill_(torch.nan)
    return found


def piloted(model: nn.Module) -> tuple[torch.optim.Optimizer, trimtab.Pilot]:
    """Make what every loop is given."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return optimizer, trimtab.attach(optimizer, "hypergradient", model=model, horizon=STEPS, every=4)


End = tuple[nn.Module, trimtab.Pilot]


def plain(way: Way, folder: Path) -> End:
    """Train by a loop of one's own."""
    model = Reader()
    optimizer, pilot = piloted(model)
    data = iter(batches(way))
    for _ in range(STEPS):
        total = torch.zeros(())
        for _ in range(way.accumulate):
            x, y = next(data)
            with torch.autocast("cpu", torch.bfloat16, enabled=way.bf16):
                loss = model(x, y)["loss"]
            (loss / way.accumulate).backward()
            total = total + loss.detach() / way.accumulate
        if way.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), way.clip)
        optimizer.step()
        pilot.step(total)
        optimizer.zero_grad()
    return model, pilot


def lightning(way: Way, folder: Path) -> End:
    """Train by Lightning's Trainer."""
    from lightning.pytorch import LightningModule, Trainer

    from trimtab.fit.lightning import PilotCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Reader()

        def training_step(self, batch: Any) -> Tensor:
            return self.model(*batch)["loss"]

        def configure_optimizers(self) -> Any:
            optimizer, self.pilot = piloted(self.model)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.pilot, "interval": "step"}}

    module = Module()
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        precision="bf16-mixed" if way.bf16 else "32-true",
        accumulate_grad_batches=way.accumulate,
        gradient_clip_val=way.clip,
        callbacks=[PilotCallback()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, torch.utils.data.DataLoader(batches(way), batch_size=None))
    return module.model, module.pilot


def fabric(way: Way, folder: Path) -> End:
    """Train by Lightning Fabric."""
    from lightning.fabric import Fabric

    lightened = Fabric(accelerator="cpu", precision="bf16-mixed" if way.bf16 else "32-true")
    raw = Reader()
    optimizer, pilot = piloted(raw)
    model, stepper = lightened.setup(raw, optimizer)
    data = iter(batches(way))
    for _ in range(STEPS):
        total = torch.zeros(())
        for _ in range(way.accumulate):
            loss = model(*next(data))["loss"]
            lightened.backward(loss / way.accumulate)
            total = total + loss.detach() / way.accumulate
        if way.clip is not None:
            lightened.clip_gradients(model, stepper, max_norm=way.clip, error_if_nonfinite=False)
        stepper.step()
        pilot.step(total)
        stepper.zero_grad()
    return raw, pilot


class Stream(torch.utils.data.IterableDataset):
    """Single examples in order, under the names that the model takes them by."""

    def __init__(self, data: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        """Yield an example at a time."""
        for x, y in self.data:
            yield from ({"x": a, "labels": b} for a, b in zip(x, y, strict=True))


def transformers(way: Way, folder: Path) -> End:
    """Train by Transformers' Trainer."""
    from transformers import Trainer, TrainingArguments

    from trimtab.fit.transformers import PilotCallback

    model = Reader()
    optimizer, pilot = piloted(model)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=SIZE,
        gradient_accumulation_steps=way.accumulate,
        max_grad_norm=way.clip or 0.0,
        bf16=way.bf16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1000,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Stream(batches(way)),
        optimizers=(optimizer, pilot),
        callbacks=[PilotCallback(pilot)],
    )
    trainer.train()
    return model, pilot


def accelerate(way: Way, folder: Path) -> End:
    """Train by Accelerate."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from trimtab.fit.accelerate import PilotSteps

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    accelerator = Accelerator(
        cpu=True, mixed_precision="bf16" if way.bf16 else "no", gradient_accumulation_steps=way.accumulate
    )
    raw = Reader()
    optimizer, pilot = piloted(raw)
    steps = PilotSteps(accelerator, pilot)
    model, stepper = accelerator.prepare(raw, optimizer)
    for x, y in batches(way):
        with accelerator.accumulate(model):
            loss = model(x, y)["loss"]
            accelerator.backward(loss)
            if way.clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), way.clip)
            stepper.step()
            steps.step(loss)
            stepper.zero_grad()
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    return raw, pilot


def skorch(way: Way, folder: Path) -> End:
    """Train by skorch, which knows neither accumulation nor bfloat16: its own hooks do both."""
    from skorch import NeuralNet

    from trimtab.fit.skorch import PilotCallback

    class Net(NeuralNet):
        def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Tensor:
            return y_pred["loss"]

        def infer(self, x: Any, **kwargs: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=way.bf16):
                return self.module_(**x)

        def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
            if way.clip is not None:
                nn.utils.clip_grad_norm_(self.module_.parameters(), way.clip)

    data = batches(way)
    callback = PilotCallback(
        lambda optimizer: trimtab.attach(optimizer, "hypergradient", model=net.module_, horizon=STEPS, every=4)
    )
    net = Net(
        Reader,
        nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.05,
        batch_size=SIZE,
        max_epochs=1,
        train_split=None,
        callbacks=[callback],
        verbose=0,
    )
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    net.fit({"x": x, "labels": y}, y)
    return net.module_, callback.pilot_


def ignite(way: Way, folder: Path) -> End:
    """Train by Ignite."""
    from ignite.engine import Engine, Events

    from trimtab.fit.ignite import PilotHandler

    model = Reader()
    optimizer, pilot = piloted(model)

    def update(engine: Any, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.bf16):
            loss = model(*batch)["loss"]
        (loss / way.accumulate).backward()
        if engine.state.iteration % way.accumulate == 0:
            if way.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), way.clip)
            optimizer.step()
            optimizer.zero_grad()
        return loss

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, PilotHandler(pilot))
    trainer.run(batches(way))
    return model, pilot


LOOPS: dict[str, Callable[[Way, Path], End]] = {
    "lightning": lightning,
    "fabric": fabric,
    "transformers": transformers,
    "accelerate": accelerate,
    "skorch": skorch,
    "ignite": ignite,
}


@functools.cache
def expected(name: str) -> tuple[str, str]:
    """Give what the plain loop ends at."""
    return told(plain(WAYS[name], Path()))


def told(end: End) -> tuple[str, str]:
    """Write out every decision, and every weight."""
    model, pilot = end
    weights = {name: entry.tolist() for name, entry in model.state_dict().items()}
    return "\n".join(map(str, pilot.trace.rows)), str(weights)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", WAYS)
def test_the_decisions_are_those_of_a_plain_loop(name: str, loop: str, tmp_path: Path) -> None:
    """Every reading, move and value, and the weights in the end, are the plain loop's to the last bit."""
    if loop == "skorch" and WAYS[name].accumulate > 1:
        pytest.skip("skorch has no gradient accumulation of its own")
    rows, weights = told(LOOPS[loop](WAYS[name], tmp_path))
    assert expected(name)[0] == rows
    assert expected(name)[1] == weights
    assert ("restore" in rows) is WAYS[name].spoilt
