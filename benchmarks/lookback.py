"""How the implicit hypergradient nears the best response's as it looks further back.

A bowl ``sum a w^2 / 2 - b w + decay w^2 / 2``, ``a`` from 0.01 to 1 in twenty steps, held out ``sum (w - c)^2 / 2``.
SGD stands at the minimum, where the slope of the best response by the decay is known in closed form. The error of the
series by its length, for rates from cautious to unstable; the slowest direction's ``|1 - lr (a + decay)|^i`` is in the
rows::

    OMP_NUM_THREADS=1 python benchmarks/lookback.py docs/lookback.svg

Rows go to ``results/lookback.jsonl``.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from rows import append, facts
from torch import Tensor

from trimtab.charts import PALETTE, Line, Panel, chart
from trimtab.hypergrad import Curve, Form, Implicit, Step
from trimtab.knobs import Panel as Knobs
from trimtab.layout import Layout
from trimtab.rules import SGD

RESULTS = Path(__file__).parent.parent / "results" / "lookback.jsonl"
F64, WIDE, DECAY = torch.float64, 20, 0.01
SHARES = (0.3, 0.9, 1.5, 2.1)  # of lr times the largest eigenvalue: beyond 2 a step is unstable
LOOKBACKS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 25, 51, 101, 201, 401, 801)


def main(picture: Path) -> None:
    """Measure, write rows, draw."""
    warnings.simplefilter("ignore", UserWarning)  # of even look-backs, which are asked for here
    lines = []
    for share, color in zip(SHARES, PALETTE, strict=False):
        step, eigen, exact = bowl(share)
        kept = [i for i in LOOKBACKS if share < 2 or i <= 401]
        errors = [abs(slope(step, i) / exact - 1) for i in kept]
        slowest = [float((1 - eigen).abs().max()) ** i for i in kept]
        row = {"share": share, "lookback": kept, "error": errors, "slowest": slowest}
        append(RESULTS, facts() | row | {"command": "python benchmarks/lookback.py docs/lookback.svg"})
        print(f"lr a = {share}: " + ", ".join(f"{i}: {e:.2g}" for i, e in zip(kept, errors, strict=True)), flush=True)
        lines.append(Line(kept, [max(e, 1e-16) for e in errors], f"lr × curvature {share}", marker="o", color=color))
    panel = Panel(
        "The implicit slope nears the best response's",
        "look-back",
        "relative error",
        lines,
        is_log_x=True,
        is_log_y=True,
    )
    picture.write_text(chart(panel, size=(7.0, 4.0)).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def bowl(share: float) -> tuple[Step, Tensor, float]:
    """Give a step where SGD stands still, the eigenvalues of its ``du/dw``, and the best response's slope by decay."""
    rng = torch.Generator().manual_seed(0)
    a = torch.logspace(-2, 0, WIDE, dtype=F64)
    b, c = torch.randn(2, WIDE, generator=rng, dtype=F64)
    lr = share / float((a + DECAY).max())
    rest = b / (a + DECAY)
    layout, names = Layout({"w": torch.Size([WIDE])}, [["w"]], joined=True), ("lr", "weight_decay")

    def gradient(weights: Tensor, batch: Any, values: Tensor, noise: Any) -> Curve:
        leaf = weights.clone().requires_grad_()
        return Curve([leaf], [a * leaf - b])

    step = Step(
        SGD(),
        layout,
        rest[None],
        (SGD().start(rest[None]),),
        torch.tensor([[[lr, DECAY]]], dtype=F64),
        Knobs.of(names),
        lambda values: layout.values(values, names),
        (a * rest - b)[None],
        rest[None],
        gradient=gradient,
        held_out=lambda weights: weights - c,
    )
    return step, lr * (a + DECAY), float(((rest - c) * (-rest / (a + DECAY))).sum())


def slope(step: Step, lookback: int) -> float:
    """Give the implicit slope by the decay."""
    estimator = Implicit(lookback)
    memory = estimator.start(Form(step.weights, step.slots, step.layout, 1, 2))
    return float(estimator.follow(step, memory, is_due=True)["slope"][0, 0, 1])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "lookback.svg"))
