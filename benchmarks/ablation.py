"""Ask which features carry a card: take one group away after the other and sit the examination again.

A group is taken away by setting the weights that read it to 0; nothing is taught anew, so this says what the card leans
on, not what another card could do without::

    OMP_NUM_THREADS=1 python benchmarks/ablation.py trimtab-v1

Each card is scored on lessons of teach-v1 that nobody is taught on, longer and shorter ones, each from seven learning
rates with two seeds. A row of ``results/ablation.jsonl`` a group.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from rows import append, facts

from trimtab.controllers import Policy
from trimtab.controllers.cards import card
from trimtab.knobs import Panel
from trimtab.teach import Distribution, Examination
from trimtab.teach.examination import Grids

RESULTS = Path(__file__).parent.parent / "results"
HORIZONS, LESSONS = (60, 1000), 24
GROUPS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "loss trends": ("trend_fast", "trend_mid", "trend_slow", "best_gap", "progress_made"),
    "noise": ("noise", "bad_share", "snr"),
    "validation": ("val_gap", "val_trend", "val_best_gap", "has_val"),
    "gradients and cosines": ("cos_grad", "cos_update", "grad_trend_fast", "grad_trend_slow"),
    "sizes and distances": ("update_ratio", "distance", "directness"),
    "classical rates": ("lr_dog", "lr_dadapt", "lr_secant", "lr_polyak"),
    "clock": ("progress", "age", "horizon", "has_horizon"),
    "position and move": ("position_lr", "move_lr"),
    "all": ("*",),
}


@torch.no_grad()
def main() -> None:
    """Measure the card named on the command line."""
    parser = argparse.ArgumentParser(description="Ask which features carry a card.")
    parser.add_argument("card", nargs="?", default="trimtab-v1", help="a shipped card")
    parser.add_argument("--grids", type=Path, default=None, help="a file that keeps the static runs")
    words = parser.parse_args()
    torch.set_num_threads(1)
    panel = Panel.of(["lr"])
    grids = Grids(panel, words.grids)
    examination = Examination(Distribution(HORIZONS).examined(LESSONS), panel, grids)
    for group, names in GROUPS.items():
        regrets, _, _ = examination.regrets(without(card(words.card), names))
        grids.save()
        row: dict[str, Any] = facts() | {
            "card": words.card,
            "without": group,
            "lessons": LESSONS,
            "median": float(regrets.median()),
            "geometric_mean": float(regrets.log().mean().exp()),
            "ninety": float(regrets.quantile(0.9)),
        }
        append(RESULTS / "ablation.jsonl", row)
        print(json.dumps({name: row[name] for name in ("without", "median", "geometric_mean", "ninety")}), flush=True)


def without(policy: Policy, names: tuple[str, ...]) -> Policy:
    """Give a copy that does not read some features; "*" for none at all."""
    made = copy.deepcopy(policy)
    for place, name in enumerate(made.spec["features"]):
        if name in names or names == ("*",):
            made.get_parameter("hidden_weight")[:, place] = 0.0
    return made


if __name__ == "__main__":
    main()
