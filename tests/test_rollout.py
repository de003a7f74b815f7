"""Laws of a voyage: its pieces make the run that the whole makes, bit for bit."""

from __future__ import annotations

import io

import pytest
import torch

from trimtab.controllers import Policy, WarmupCosine
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import Passage, Voyage, rollout
from trimtab.rules import SGD, AdamW, Rule
from trimtab.tasks import task_named

LR = Panel.of(["lr"])
SEEDS = (3, 3, 4)
STEPS = 40


def voyage(controller: Policy | WarmupCosine, rule: Rule) -> Voyage:
    """Plan forty steps on the digits, the guard and the validation loss watching."""
    plant = Plant(task_named("digits-mlp-v1"), rule, LR)
    return Voyage(plant, controller, horizon=STEPS, guard=Guard(), validate_every=10)


def reread(passage: Passage) -> Passage:
    """Write a passage to a file and read it, weights only."""
    file = io.BytesIO()
    torch.save(passage.tree(), file)
    file.seek(0)
    return Passage.of_tree(torch.load(file, weights_only=True))


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), AdamW()], ids=["sgd", "adamw"])
def test_pieces_through_a_file_are_the_whole(rule: Rule) -> None:
    """Pieces of 1, 12 and 27 steps, each through a file, give the run of 40 steps, one member restored on the way."""
    values = torch.tensor([1e-3, 1e3, 1e-1], dtype=torch.float64)[:, None, None].clamp(max=10.0)
    whole = rollout(
        Plant(task_named("digits-mlp-v1"), rule, LR),
        WarmupCosine(),
        values,
        seeds=SEEDS,
        steps=STEPS,
        horizon=STEPS,
        guard=Guard(),
        validate_every=10,
    )
    passage, losses, decided = voyage(WarmupCosine(), rule).begin(values, SEEDS), [], 0
    for steps in (1, 12, 27):
        passage, piece = voyage(WarmupCosine(), rule).advance(reread(passage), steps)
        losses.append(piece.losses)
        decided += len(piece.decisions)
    assert torch.equal(whole.losses, torch.cat(losses))
    assert torch.equal(whole.copies.weights, passage.copies.weights)
    assert len(whole.decisions) == decided
    assert STEPS == passage.step
    assert int(passage.state["guard"]["restores"].sum()) > 0


def test_a_recurrent_policy_goes_on_where_it_was() -> None:
    """A policy's memory travels with the passage."""
    with torch.no_grad():
        policy = Policy.for_panel(LR, hidden=4, kind="gru")
        policy.out_weight.fill_(0.3)  # type: ignore[operator]
        values = torch.full((3, 1, 1), 1e-2, dtype=torch.float64)
        begin = voyage(policy, SGD()).begin(values, SEEDS)
        whole, _ = voyage(policy, SGD()).advance(begin, STEPS)
        half, _ = voyage(policy, SGD()).advance(begin, 15)
        rest, _ = voyage(policy, SGD()).advance(reread(half), STEPS - 15)
    assert torch.equal(whole.copies.weights, rest.copies.weights)
    assert torch.equal(whole.state["mind"]["memory"], rest.state["mind"]["memory"])


def test_begin_starts_no_step() -> None:
    """Two advances from one passage are the same: nothing in it is changed."""
    passage = voyage(WarmupCosine(), SGD()).begin(torch.full((3, 1, 1), 0.1, dtype=torch.float64), SEEDS)
    _, one = voyage(WarmupCosine(), SGD()).advance(passage, 12)
    _, two = voyage(WarmupCosine(), SGD()).advance(passage, 12)
    assert torch.equal(one.losses, two.losses)
