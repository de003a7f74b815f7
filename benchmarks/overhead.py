"""What `attach` costs a live run, in time and memory, beside the same run without it.

One model, optimizer and data train in turns of ten steps (or as ``--every`` says), now with a pilot (cosine or
`--controller`, guard with snapshots), now without, its hook taken off: a turn with it holds one decision, and stands
between two without. Both train the same tensors at the same places in memory. Reported:

- ``median_ratio``: the median step of a turn with the pilot ÷ that of the turns beside it, median over turns;
  ``mean_ratio``: the same of mean steps (the mean holds decisions and snapshots; the median step has neither);
  ``bare_ratio``: the median step of the turn after ÷ that of the turn before, both without: 1 but for the machine;
- ``own_share``: time spent in trimtab's own code, measured inside the run, ÷ the rest of that run: less noisy;
- ``own_us_per_step``; ``state_bytes_share``: bytes the pilot holds without the snapshot ÷ parameters + gradients +
  slots; ``snapshot_bytes_share``: the guard's snapshot, the same; ``average_bytes_share``: that of an average of the
  weights (``--average``), without the snapshot's copy of it.

The run is long enough (warm-up turns first) that snapshots, and an average's moves, lie as far apart as they do after
``--at`` steps. Labels change from step to step, so that no batch is learned by heart, as in a real run.

    python benchmarks/overhead.py [--models mlp transformer cnn growth] [--turns 12] [--device cpu] [--results FILE]
        [--controller cosine] [--every 10] [--average] [--builds 1] [--at 1000]

Single turns of a small net scatter by five per cent, so that a figure of it wants a hundred and more.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor, nn

import trimtab
from trimtab.pilot import Pilot

CHOSEN: dict[str, Any] = {"controller": "cosine", "every": 10, "average": False}
AT = {"steps": 1000}


def main() -> None:
    """Measure and print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mlp", "transformer", "cnn", "growth"])
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--builds", type=int, default=1, help="times that both copies are made anew; medians over them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--controller", default="cosine", help="a name that `attach` takes")
    parser.add_argument("--every", type=int, default=CHOSEN["every"], help="steps between decisions")
    parser.add_argument("--average", action="store_true", help="keep an average of the weights")
    parser.add_argument("--at", type=int, default=AT["steps"], help="steps that the run seems to have taken")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    AT["steps"] = args.at
    CHOSEN.update(controller=args.controller, every=args.every, average=args.average)
    torch.set_num_threads(1)
    for name in args.models:
        rows = (
            growth(args.device)
            if name == "growth"
            else [middle(name, kind, args.turns, args.device, args.builds) for kind in ("foreach", "fused")]
        )
        for row in rows:
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            if args.results is not None:
                how = {"benchmark": "overhead", "device": args.device, **CHOSEN, "at": args.at}
                append(args.results, facts() | how | row)


def middle(name: str, kind: str, turns: int, device: str, builds: int) -> dict[str, Any]:
    """Measure several builds of a model, each at other places in memory; give the median of each figure."""
    rows = [measure(name, kind, turns, device) for _ in range(builds)]
    ratios = [row["median_ratio"] for row in rows]
    figures = {n: statistics.median(row[n] for row in rows) for n, value in rows[0].items() if isinstance(value, float)}
    return rows[0] | figures | {"builds": builds, "median_ratios": ratios}


def measure(name: str, kind: str, turns: int, device: str) -> dict[str, Any]:
    """Time one model under one implementation of AdamW."""
    run = Run(name, kind, device)
    own, length = instrument(run.pilot), run.pilot.every
    for _ in range(3):
        run.turn(length, is_piloted=False)
        run.turn(length, is_piloted=True)
    pretend_long(run.pilot)
    own.clear()
    turns_of = [[run.turn(length, is_piloted=which) for which in (False, True, False)] for _ in range(turns)]
    medians, means = ([[of(t) for t in three] for three in turns_of] for of in (statistics.median, statistics.mean))
    total = sum(sum(piloted) for _, piloted, _ in turns_of)
    return {
        "model": name,
        "parameters": run.size,
        "adamw": kind,
        "step_ms": round(1e3 * statistics.median(before for before, _, _ in medians), 3),
        "median_ratio": beside(medians),
        "mean_ratio": beside(means),
        "bare_ratio": round(statistics.median(after / before for before, _, after in medians), 4),
        "own_share": round(sum(own) / (total - sum(own)), 5),
        "own_us_per_step": round(1e6 * sum(own) / (turns * length), 1),
        **memory(run.pilot),
    }


def beside(threes: list[list[float]]) -> float:
    """Give the median over turns of what they took beside the mean of the one before and the one after."""
    return round(statistics.median(piloted / ((before + after) / 2) for before, piloted, after in threes), 4)


def growth(device: str) -> list[dict[str, Any]]:
    """Measure the pilot's own time and memory on models of 1e5 to 1e8 parameters."""
    rows = []
    for size in (10**5, 10**6, 10**7, 10**8):
        run = Run(f"square-{size}", "foreach", device)
        own = instrument(run.pilot)
        run.turn(10, is_piloted=True)
        pretend_long(run.pilot)
        own.clear()
        for _ in range(3):
            run.turn(run.pilot.every, is_piloted=True)
        rows.append(
            {
                "model": "growth",
                "parameters": run.size,
                "own_us_per_step": round(1e6 * sum(own) / (3 * run.pilot.every), 1),
                **memory(run.pilot),
            }
        )
    return rows


class Run:
    """A model with its training step, which ends in ``pilot.step(loss)`` where the turn is the pilot's."""

    def __init__(self, name: str, kind: str, device: str) -> None:
        torch.manual_seed(0)
        model, x, y = MODELS[name]() if name in MODELS else square(int(name.split("-")[1]))
        self.model, self.x, y = model.to(device), x.to(device), y.to(device)
        options: dict[str, Any] = {"fused": True} if kind == "fused" else {"foreach": True}
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **options)
        self.pilot = trimtab.attach(self.optimizer, horizon=100_000, model=model, **CHOSEN)
        self.labels = itertools.cycle([y[torch.randperm(len(y))] for _ in range(64)])
        self.size = sum(p.numel() for p in model.parameters())
        self.is_cuda = device.startswith("cuda")

    def turn(self, length: int, *, is_piloted: bool) -> list[float]:
        """Take so many steps; seconds each."""
        times, hooks = [], self.optimizer._optimizer_step_pre_hooks
        held = dict(hooks)
        if not is_piloted:
            hooks.clear()
        for _ in range(length):
            begin = time.perf_counter()
            loss = nn.functional.cross_entropy(self.model(self.x), next(self.labels))
            loss.backward()
            self.optimizer.step()
            if is_piloted:
                self.pilot.step(loss)
            self.optimizer.zero_grad()
            if self.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        hooks.update(held)
        return times


def instrument(pilot: Pilot) -> list[float]:
    """Record the seconds spent in the pilot's two entry points."""
    own: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = call(*args, **kwargs)
            own.append(time.perf_counter() - begin)
            return result

        return run

    pilot._hook.remove()
    pilot._hook = pilot.optimizer.register_step_pre_hook(torch.compiler.disable(timed(pilot._before_step)))
    pilot.step = timed(pilot.step)  # type: ignore[method-assign]
    return own


def pretend_long(pilot: Pilot) -> None:
    """Put the step counter at `AT`, where snapshots lie an eighth of that apart, and the last one just before."""
    state = pilot.state_dict()
    state["step"] = state["answered"] = AT["steps"]
    state["helm"]["guard"]["kept_at"].fill_(AT["steps"])
    pilot.load_state_dict(state)


def memory(pilot: Pilot) -> dict[str, float]:
    """Give the bytes that the pilot holds, as shares of parameters + gradients + slots."""
    training = sum(3 * p.numel() * p.element_size() for g in pilot.optimizer.param_groups for p in g["params"])
    training += sum(
        v.numel() * v.element_size()
        for slots in pilot.optimizer.state.values()
        for v in slots.values()
        if isinstance(v, Tensor)
    )
    probe = pilot._gauge._probe
    indices = sum(i.numel() * i.element_size() for i in probe._index if i is not None)
    held = indices + held_bytes(pilot._gauge.state_dict()) + held_bytes(pilot._state)
    snapshot = held_bytes(pilot._snapshot.kept) if pilot._snapshot is not None else 0
    return {
        "state_kib": round(held / 1024, 1),
        "state_bytes_share": round(held / training, 5),
        "snapshot_bytes_share": round(snapshot / training, 3),
        "average_bytes_share": round(held_bytes(pilot._average.tensors()) / training, 3),
    }


def held_bytes(tree: Any) -> int:
    """Add up the tensors of a tree."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(held_bytes(entry) for entry in tree.values())
    return sum(held_bytes(entry) for entry in tree) if isinstance(tree, list | tuple) else 0


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    """784-1024-512-10: 1.3 million parameters."""
    layers = [nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), torch.randn(64, 784), torch.randint(10, (64,))


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """Ten million parameters: width 320, 8 layers, 4 sequences of 64 symbols."""
    layer = nn.TransformerEncoderLayer(320, 5, 1280, 0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder, self.head = nn.Embedding(256, 320), encoder, nn.Linear(320, 256)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x))).flatten(0, 1)

    return Last(), torch.randint(256, (4, 64)), torch.randint(256, (256,))


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-18's size: 11 million parameters in 3x3 convolutions with batch norm, 32x32 images, batch 8."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    width = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for number in range(4):
            pull = stride if number == 0 else 1
            layers += [nn.Conv2d(width, out, 3, pull, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), torch.randn(8, 3, 32, 32), torch.randint(10, (8,))


def square(size: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Four square layers of about `size` parameters together, batch 1."""
    side = round((size / 4) ** 0.5)
    layers = [nn.Linear(side, side) for _ in range(4)]
    return nn.Sequential(*layers), torch.randn(1, side), torch.randint(side, (1,))


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]] = {
    "mlp": mlp,
    "transformer": transformer,
    "cnn": cnn,
}

if __name__ == "__main__":
    main()
