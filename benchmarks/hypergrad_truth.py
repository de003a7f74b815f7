"""True against estimated hypergradients over a run.

`digits-mlp-v1`'s first 200 steps under SGD with momentum, float64. At every tenth step each estimator says how the
held-out loss answers to the learning rate; the truth is the exact slope through *all* steps so far (forward mode from
the first one, slots included). Rows hold both; the picture shows them over the run, one panel an estimator::

    OMP_NUM_THREADS=1 python benchmarks/hypergrad_truth.py docs/hypergradients.svg

Rows go to ``results/hypergrad_truth.jsonl``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from rows import append, facts
from torch import Tensor

from trimtab.charts import PALETTE, Line, Panel, grid
from trimtab.controllers import Constant
from trimtab.hypergrad import (
    Estimator,
    ForwardMode,
    HyperDistill,
    Implicit,
    OneStep,
    OneStepValidation,
    Unroll,
    ZerothOrder,
)
from trimtab.knobs import Panel as Knobs
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD
from trimtab.tasks import task_named

RESULTS = Path(__file__).parent.parent / "results" / "hypergrad_truth.jsonl"
STEPS, SEEDS = 200, (0, 1, 2, 3)
CAST: tuple[Estimator, ...] = (
    OneStep(),
    OneStepValidation(),
    Implicit(5),
    Unroll(5),
    HyperDistill(0.99),
    ZerothOrder(4),
)


def main(picture: Path) -> None:
    """Measure, write rows, draw."""
    torch.set_num_threads(1)
    truth, panels = slopes(ForwardMode()), []
    steps = [10 * (n + 1) for n in range(len(truth))]
    for estimator in CAST:
        found = slopes(estimator)
        cosine = float(torch.nn.functional.cosine_similarity(found, truth, dim=0).mean())
        agree = float((found.sign() == truth.sign()).double().mean())
        scale = float((found * truth).sum() / (found * found).sum())
        row = {"estimator": estimator.name, "settings": repr(estimator), "cosine": cosine, "same_sign": agree}
        row |= {"scale": scale, "found": found.mean(1).tolist(), "truth": truth.mean(1).tolist()}
        append(RESULTS, facts() | row)
        print(f"{estimator.name:20s} cosine {cosine:.3f}, same sign {agree:.0%}, scale {scale:.3g}", flush=True)
        lines = [
            Line(steps, normal(truth.mean(1)), "true", color="#24292f", width=2.2),
            Line(steps, normal(found.mean(1)), "estimated", color=PALETTE[1]),
        ]
        panels.append(Panel(f"{estimator.name}: same sign {agree:.0%}", "step", "slope by log lr, scaled", lines))
    drawn = grid(panels, columns=3, title="Hypergradients over a run: true and estimated", height=2.6)
    picture.write_text(drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def slopes(estimator: Estimator) -> Tensor:
    """Give ``[readings, B]`` d held-out loss / d log lr at every tenth step."""
    task = task_named("digits-mlp-v1")
    panel = Knobs.of(["lr"])
    plant = Plant(task, SGD(momentum=0.9), panel, estimator=estimator, dtype=torch.float64)
    values = torch.full((len(SEEDS), 1, 1), 0.02, dtype=torch.float64)
    done = rollout(plant, Constant(), values, seeds=SEEDS, steps=STEPS)
    found = []
    for decision in done.decisions:
        signals = decision.seen.signals
        if int(signals.step[0]) % 10 == 0 and signals.hypergrad is not None:
            found.append((signals.hypergrad * signals.values)[:, 0, 0])
    return torch.stack(found)


def normal(values: Tensor) -> list[float]:
    """Scale to a largest size of 1."""
    most = float(values.abs().max())
    return [float(x) / most if most > 0 else math.nan for x in values]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "hypergradients.svg"))
