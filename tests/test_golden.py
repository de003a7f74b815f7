"""Golden: whole seeded runs, so that a change of behaviour anywhere shows as a diff to be read.

Regenerate with ``python tests/test_golden.py``, and read the diff before it is committed. Float64, so that machines
agree to the tolerance below.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab
from trimtab.rules import CATALOGUE

FOLDER = Path(__file__).parent / "golden"
RUNS = {
    "adamw-cosine": ("adamw", "cosine", [1e-4, 1e-2]),
    "sgd-hypergradient": ("sgd", "hypergradient", [1e-3, 1e-2]),
    "rmsprop-random": ("rmsprop", "random", [1e-4, 1e-3]),
    "sgd-constant-guarded": ("sgd", "constant", [1e-2, 1e3]),
}


def run(rule: str, controller: str, rates: list[float]) -> dict[str, Any]:
    """Train digits-mlp-v1 for 60 steps and record what came of it."""
    task = trimtab.task_named("digits-mlp-v1")
    panel = trimtab.Panel.of(["lr"])
    chosen = trimtab.controller_named(controller)
    plant = trimtab.Plant(task, CATALOGUE[rule](), panel, estimator=trimtab.estimator_of(chosen), dtype=torch.float64)
    values = torch.tensor(rates, dtype=torch.float64)[:, None, None]
    seeds = list(range(len(rates)))
    done = trimtab.rollout(plant, chosen, values, seeds=seeds, steps=60, horizon=60, guard=trimtab.Guard())
    last = done.decisions[-1].seen
    names = plant.features().names
    return {
        "losses": done.losses[::10].tolist(),
        "lr": done.values[::10, :, 0, 0].tolist(),
        "restores": done.state["guard"]["restores"].tolist(),
        "features": {name: last.features[:, 0, i].tolist() for i, name in enumerate(names)},
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_seeded_run_gives_what_it_gave(name: str) -> None:
    """Losses, knobs, restores and all features of a whole run are the recorded ones."""
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    actual = run(*RUNS[name])
    assert expected["restores"] == actual["restores"]
    for field in ("losses", "lr"):
        torch.testing.assert_close(torch.tensor(actual[field]), torch.tensor(expected[field]), rtol=1e-5, atol=1e-7)
    assert list(expected["features"]) == list(actual["features"])
    for feature, values in expected["features"].items():
        assert values == pytest.approx(actual["features"][feature], rel=1e-4, abs=1e-5), feature


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for title, case in RUNS.items():
        (FOLDER / f"{title}.json").write_text(json.dumps(run(*case), indent=1) + "\n")
