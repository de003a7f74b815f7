"""Does the weighted Q-ensemble hold the level of its best member with six of seven bad?

Each contender learns online through forty runs of quadratic-v1, one after the other, each from a learning rate drawn
from 1e-4 to 1, and is judged on the last ten of them, without noise and without learning: log validation loss at the
end, mean over ten runs; ten seeds. "uniform" is the ensemble with all votes alike, "still" leaves the rate to its
schedule, "control by a model" learns networks that predict its runs instead of values. About twelve minutes.

    python benchmarks/ensemble.py [--only CONTENDER] [--results results/ensemble.jsonl]
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from rows import append, facts

from trimtab.controllers import Policy
from trimtab.env import Setting
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.rollout import rollout
from trimtab.tasks import task_named
from trimtab.teach.brains import Brain
from trimtab.teach.ensemble import QEnsemble
from trimtab.teach.inrun import ModelControl

TASK, SEEDS, RUNS, JUDGED = "quadratic-v1", 10, 40, 10
GOOD = Brain()
BAD = {
    "critic's rate 3": Brain(critic_lr=3.0),
    "critic never learns": Brain(critic_lr=0.0, actor_lr=1e-2),
    "actor's rate 3": Brain(actor_lr=3.0),
    "no target, both rates 1": Brain(critic_lr=1.0, actor_lr=1.0, blend=1.0),
    "critic never learns, actor's rate 1": Brain(critic_lr=0.0, actor_lr=1.0),
    "both rates far too high, discount 0.999": Brain(critic_lr=3.0, actor_lr=1.0, discount=0.999),
}


def main() -> None:
    """Measure and print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one contender")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    all_of = (GOOD, *BAD.values())
    untaught = Policy.for_panel(Panel.of(["lr"]), 8, prior="hold")
    contenders: dict[str, QEnsemble | ModelControl] = {
        "still": ModelControl(untaught, noise=0.0, fits=0, climbs=0),
        "best member alone": QEnsemble((GOOD,)),
        "ensemble, six of seven bad": QEnsemble(all_of),
        "uniform, six of seven bad": QEnsemble(all_of, rate=0.0),
        "control by a model": ModelControl(untaught),
        **{f"bad: {name}": QEnsemble((brain,)) for name, brain in BAD.items()},
    }
    for name in [args.only] if args.only else contenders:
        begin = time.process_time()
        row = {"contender": name, **measured(contenders[name]), "seconds": round(time.process_time() - begin, 1)}
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if args.results is not None:
            append(args.results, facts() | {"benchmark": "ensemble", "task": TASK} | row)


def measured(controller: QEnsemble | ModelControl) -> dict[str, Any]:
    """Let it learn and judge it: mean over seeds, a 95 % interval by Student's t, each seed's, and the mean votes."""
    off = {"noise": 0.0, "updates": 0} if isinstance(controller, QEnsemble) else {"noise": 0.0, "fits": 0, "climbs": 0}
    setting = Setting(task_named(TASK), prior="hold", starts=(1e-4, 1.0))
    plant, ends, state = setting.plant(), [], None
    for run in range(RUNS):
        numbers = [1000 + SEEDS * run + seed for seed in range(SEEDS)]
        if state is not None:
            controller = controller.after(state, **(off if run >= RUNS - JUDGED else {}))  # type: ignore[arg-type]
        values = setting.values(plant, numbers)
        done = rollout(
            plant, controller, values, seeds=numbers, steps=setting.steps, horizon=setting.steps, guard=Guard()
        )
        state = done.state["mind"]
        ends.append(plant.loss_on(done.copies, plant.split("val")).double().log())
    each = torch.stack(ends[-JUDGED:]).mean(0)
    return {
        "log_loss": round(float(each.mean()), 4),
        "interval": round(float(2.262 * each.std() / math.sqrt(SEEDS)), 4),
        "each": [round(value, 4) for value in each.tolist()],
        "votes": [round(vote, 3) for vote in state["votes"].mean(0).tolist()] if "votes" in (state or {}) else [],
    }


if __name__ == "__main__":
    main()
