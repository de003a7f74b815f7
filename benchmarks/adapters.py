"""What the adapters of `trimtab.fit` cost a step, beside the pilot itself.

A perceptron of 1.3 million parameters trains under AdamW by each framework's own loop, with the pilot and its adapter
as the documentation shows them. Processor time (so that a busy machine does not matter) spent in the adapter's entry
points, without that in the pilot's, is counted inside the run. One thread; the first 20 steps are left out.

    python benchmarks/adapters.py [--frameworks lightning transformers ...] [--steps 220] [--results FILE]
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor, nn

import trimtab

BATCH, WARM = 64, 20


class Clock:
    """Counts the seconds spent in calls, those inside others only once."""

    def __init__(self) -> None:
        self.adapter = self.pilot = 0.0
        self.stamps: list[float] = []

    def watch(self, owner: Any, names: list[str], *, is_pilot: bool = False) -> None:
        """Count the calls of some methods of an object."""
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name), is_pilot))

    def _timed(self, call: Callable[..., Any], is_pilot: bool) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            begin, inside = time.thread_time(), self.pilot
            result = call(*args, **kwargs)
            took = time.thread_time() - begin
            if len(self.stamps) > WARM:
                if is_pilot:
                    self.pilot += took
                else:
                    self.adapter += took - (self.pilot - inside)
            return result

        return run


class Classifier(nn.Module):
    """784-1024-512-10, its loss inside; notes when each forward pass begins."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10)]
        self.net, self.clock = nn.Sequential(*layers), clock

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Give the loss."""
        self.clock.stamps.append(time.thread_time())
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


def made(clock: Clock) -> tuple[Classifier, torch.optim.Optimizer, trimtab.Pilot]:
    """Make a model, its optimizer and a pilot whose time is counted."""
    model = Classifier(clock)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pilot = trimtab.attach(optimizer, "cosine", horizon=100_000, model=model)
    clock.watch(pilot, ["step"], is_pilot=True)
    return model, optimizer, pilot


class Examples(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """The same random batch, example by example or whole, as often as is asked for."""

    def __init__(self, steps: int, *, whole: bool) -> None:
        self.steps, self.whole = steps, whole
        self.x, self.y = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))

    def __iter__(self) -> Iterator[Any]:
        """Yield batches, or examples under the names that the model takes them by."""
        for _ in range(self.steps):
            if self.whole:
                yield self.x, self.y
            else:
                yield from ({"x": x, "labels": y} for x, y in zip(self.x, self.y, strict=True))


def plain(clock: Clock, steps: int, folder: str) -> None:
    """No adapter at all."""
    model, optimizer, pilot = made(clock)
    for x, y in Examples(steps, whole=True):
        loss = model(x, y)["loss"]
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()


def lightning(clock: Clock, steps: int, folder: str) -> None:
    """Lightning's Trainer."""
    from lightning.pytorch import LightningModule, Trainer

    from trimtab.fit.lightning import PilotCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.optimizer, self.pilot = made(clock)

        def training_step(self, batch: Any) -> Tensor:
            return self.model(*batch)["loss"]

        def configure_optimizers(self) -> Any:
            return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.pilot, "interval": "step"}}

    callback = PilotCallback()
    clock.watch(callback, ["on_before_zero_grad", "on_before_backward", "on_train_batch_end"])
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_steps=steps, accelerator="cpu", callbacks=[callback], default_root_dir=folder, **quiet)
    trainer.fit(Module(), torch.utils.data.DataLoader(Examples(steps, whole=True), batch_size=None))


def transformers(clock: Clock, steps: int, folder: str) -> None:
    """Transformers' Trainer."""
    from transformers import Trainer, TrainingArguments

    from trimtab.fit.transformers import PilotCallback

    model, optimizer, pilot = made(clock)
    callback = PilotCallback(pilot)
    clock.watch(callback, ["_listen", "on_step_begin", "on_pre_optimizer_step", "on_log"])
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=100,
    )
    data = Examples(steps, whole=False)
    Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, pilot), callbacks=[callback]).train()


def accelerate(clock: Clock, steps: int, folder: str) -> None:
    """Accelerate."""
    from accelerate import Accelerator

    from trimtab.fit.accelerate import PilotSteps

    accelerator = Accelerator(cpu=True)
    raw, optimizer, pilot = made(clock)
    follower = PilotSteps(accelerator, pilot)
    clock.watch(follower, ["step"])
    model, stepper = accelerator.prepare(raw, optimizer)
    for x, y in Examples(steps, whole=True):
        loss = model(x, y)["loss"]
        accelerator.backward(loss)
        stepper.step()
        follower.step(loss)
        stepper.zero_grad()


def ignite(clock: Clock, steps: int, folder: str) -> None:
    """Ignite."""
    from ignite.engine import Engine, Events

    from trimtab.fit.ignite import PilotHandler

    model, optimizer, pilot = made(clock)

    def update(engine: Any, batch: Any) -> Tensor:
        loss = model(*batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, clock._timed(PilotHandler(pilot).__call__, is_pilot=False))
    trainer.run(Examples(steps, whole=True), epoch_length=steps)


FRAMEWORKS = {f.__name__: f for f in (plain, lightning, transformers, accelerate, ignite)}


def main() -> None:
    """Measure and print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frameworks", nargs="+", default=list(FRAMEWORKS), choices=list(FRAMEWORKS))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in args.frameworks:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            FRAMEWORKS[name](clock, args.steps, folder)
        taken = sorted(b - a for a, b in zip(clock.stamps[WARM:], clock.stamps[WARM + 1 :], strict=False))
        count, median = len(taken), taken[len(taken) // 2]
        row = {
            "framework": name,
            "parameters": 1_333_770,
            "steps": count,
            "step_ms": round(1e3 * median, 3),
            "adapter_us_per_step": round(1e6 * clock.adapter / count, 1),
            "adapter_share": round(clock.adapter / count / median, 5),
        }
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if args.results is not None:
            append(args.results, facts() | {"benchmark": "adapters", "device": "cpu"} | row)


if __name__ == "__main__":
    main()
