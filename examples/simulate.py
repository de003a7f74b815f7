"""Train many copies of one network at once, each from its own learning rate, under one controller.

python examples/simulate.py
"""

import torch

import trimtab
from trimtab.rules import AdamW


def main(steps: int = 200, members: int = 16) -> torch.Tensor:
    """Race sixteen initial learning rates over seven decades; return their final validation losses."""
    task = trimtab.task_named("digits-mlp-v1")
    panel = trimtab.Panel.of(["lr"])
    controller = trimtab.controller_named("cosine")
    plant = trimtab.Plant(task, AdamW(), panel, estimator=trimtab.estimator_of(controller))
    rates = torch.logspace(-6, 1, members, dtype=torch.float64)

    run = trimtab.rollout(
        plant,
        controller,
        rates[:, None, None],
        seeds=[0] * members,
        steps=steps,
        horizon=steps,
        guard=trimtab.Guard(),
    )
    losses, _ = plant.evaluate(run.copies, plant.split("val"))
    for rate, loss, back in zip(rates, losses, run.state["guard"]["restores"], strict=True):
        print(f"lr {rate:8.1e}  validation loss {loss:6.3f}  restored {int(back)} times")
    return losses


if __name__ == "__main__":
    main()
