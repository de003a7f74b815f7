"""Laws of a voyage: its pieces make the run that the whole makes, bit for bit."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

from trimtab.controllers import Policy, WarmupCosine
from trimtab.errors import OrderError
from trimtab.guard import Guard
from trimtab.knobs import Panel
from trimtab.passage import Passage
from trimtab.plant import Plant
from trimtab.rollout import Voyage, rollout
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


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), AdamW()], ids=["sgd", "adamw"])
def test_members_of_different_ages_sail_together(rule: Rule) -> None:
    """Joined at different ages, whose readings come together, members go on as each does alone (float64)."""
    plant = Plant(task_named("digits-mlp-v1"), rule, LR, dtype=torch.float64)
    here = Voyage(plant, WarmupCosine(), horizon=STEPS, guard=Guard(), validate_every=20)
    value = torch.tensor([1e-2], dtype=torch.float64)[:, None, None]
    alone = [here.begin(value, [seed]) for seed in SEEDS]
    ends = [here.advance(passage, STEPS)[0] for passage in alone]
    aged = [here.advance(passage, age)[0] for passage, age in zip(alone, (20, 10, 20), strict=True)]
    together, _ = here.advance(Passage.joined(aged), 20)
    assert [40, 30, 40] == together.clock.tolist()
    last, _ = here.advance(together.picked([1]), 10)
    for found, end in ((together.picked([0]), ends[0]), (last, ends[1]), (together.picked([2]), ends[2])):
        torch.testing.assert_close(found.copies.weights, end.copies.weights, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.state["memory"]["val"], end.state["memory"]["val"], rtol=1e-12, atol=1e-12)
        assert torch.equal(found.order["epoch"], end.order["epoch"])


@pytest.mark.parametrize("ages", [(10, 15), (1, 11)])
def test_members_whose_readings_part_do_not_sail_together(ages: tuple[int, int]) -> None:
    """What cannot be read at the same step is refused, with the ages."""
    here = voyage(WarmupCosine(), SGD())
    alone = here.begin(torch.full((1, 1, 1), 0.1, dtype=torch.float64), [0])
    aged = [replace(here.advance(alone, age)[0], window=()) for age in ages]
    with pytest.raises(OrderError, match=rf"\[{ages[0]}, {ages[1]}\]"):
        here.advance(Passage.joined(aged), 5)
