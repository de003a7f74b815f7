"""Laws and oracles of control by a model: its fit is the surrogate's, its climb is the value gradients'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import trimtab
from trimtab.contracts import ControllerContract
from trimtab.controller import Controller
from trimtab.controllers import Policy
from trimtab.controllers.cards import card
from trimtab.env import Setting
from trimtab.errors import KnobError
from trimtab.knobs import Panel
from trimtab.plant import Plant
from trimtab.rollout import rollout
from trimtab.rules import SGD
from trimtab.stream import Stream
from trimtab.task import Batch
from trimtab.tasks import task_named
from trimtab.teach.genome import Genome
from trimtab.teach.inrun import ModelControl, _pieces, _scales
from trimtab.teach.surrogate import BETA, NETWORKS, Surrogate
from trimtab.teach.svg import Sketched
from trimtab.teach.value import worth

F64 = torch.float64
LR = Panel.of(["lr"])
SMALL: dict[str, Any] = {"fits": 2, "climbs": 1, "length": 3, "batch": 5, "kept": 32}


def policy(panel: Panel = LR) -> Policy:
    """Give a small policy with weights drawn."""
    made = Policy.for_panel(panel, 6, prior="hold")
    with torch.no_grad():
        made.get_parameter("out_weight").normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    return made


class TestModelControl(ControllerContract):
    """The contract of controllers."""

    @pytest.fixture
    def controller(self) -> Controller:
        """Give one that learns as soon as it has moments enough."""
        return ModelControl(policy(Panel.of(["momentum", "lr"])), fewest=3, **SMALL)

    def alone(self, controller: Any, member: int) -> Controller:
        """Member b learns as a run of seed + b."""
        return replace(controller, seed=controller.seed + member)


def driven(control: ModelControl, seeds: tuple[int, ...] = (0, 1), steps: int = 300) -> Any:
    """Let it drive bowls."""
    plant = Plant(task_named("quadratic-v1"), SGD(momentum=0.9), LR, dtype=F64)
    values = torch.full((len(seeds), 1, 1), 0.01, dtype=F64)
    return rollout(plant, control, values, seeds=seeds, steps=steps, horizon=steps)


def moments() -> tuple[ModelControl, Any, list[int]]:
    """Give a control, its state after some moves, and how many moments that holds."""
    control = ModelControl(policy(), **(SMALL | {"fits": 0, "climbs": 0}))
    state = driven(control).state["mind"]
    filled = state["moments"].tolist()
    assert min(filled) >= control.fewest
    return control, state, filled


def surrogate(state: Any, scales: Any, member: int) -> Surrogate:
    """Give a member's model as the module."""
    weights = {name: weight[member] for name, weight in state["nets"]["model"].items()}
    made = Surrogate(state["columns"].shape[1], 1, torch.Generator())
    made.load_state_dict({**weights, **{name: scale[member, 0, 0] for name, scale in scales.items()}})
    return made


def test_the_fit_is_the_surrogate_s() -> None:
    """Slopes by a member's own weights are those of the surrogate's likelihood on the same moments."""
    control, state, filled = moments()
    scales, kept = _scales(state["replay"], filled), state["replay"]
    slopes = control._fit(
        state["nets"]["model"], scales, kept, filled, [torch.Generator().manual_seed(7 + b) for b in range(2)]
    )
    for b in range(2):
        index = torch.randint(filled[b], (NETWORKS, control.batch), generator=torch.Generator().manual_seed(7 + b))
        seen, action, reward, then = (kept[name][b][index] for name in ("seen", "action", "reward", "next"))
        made = surrogate(state, scales, b)
        loss = made._likelihood(seen, action, torch.cat([then, reward[..., None]], -1), beta=BETA) * NETWORKS
        for name, parameter in made.named_parameters():
            (expected,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            torch.testing.assert_close(slopes[name][b], expected)


def test_the_climb_is_the_value_gradient() -> None:
    """Slopes by the actor are those of the pieces' worth under the policy as `teach.svg` differentiates it."""
    control, state, filled = moments()
    scales = _scales(state["replay"], filled)
    rngs = [torch.Generator().manual_seed(9 + b) for b in range(2)]
    slopes = control._climb(state["nets"], scales, state, filled, rngs)
    for b in range(2):
        first = torch.randint(
            filled[b] - control.length + 1, (control.batch,), generator=torch.Generator().manual_seed(9 + b)
        )
        log = _pieces({key: part[b] for key, part in state["replay"].items()}, first, control.length)
        genome = Genome(control.policy.spec)  # a drawn policy reads everything
        actor = Sketched(control.policy, genome)
        expected = torch.autograd.grad(-worth(surrogate(state, scales, b), actor, log), list(actor.parameters()))
        size = torch.stack([slope.norm() for slope in expected]).norm().clamp_min(1.0)
        for (name, _), slope in zip(actor.named_parameters(), expected, strict=True):
            key = {"hidden_weight": "weight0", "hidden_bias": "bias0", "out_weight": "weight1", "out_bias": "bias1"}[
                name
            ]
            torch.testing.assert_close(slopes[key][b, 0].reshape(slope.shape), slope / size)


def test_pieces_do_not_cross_from_run_to_run() -> None:
    """What follows where the next run begins is not known, and so not counted."""
    seen = torch.arange(6, dtype=F64)[:, None]
    kept = {"seen": seen, "next": seen + 1, "action": seen, "reward": seen[:, 0]}
    kept["next"][2] = 40.0  # a run ends here
    log = _pieces(kept, torch.tensor([0, 1, 3]), 3)
    assert [[True, True, True], [True, True, False], [True, True, True]] == log.known.tolist()
    assert [[1.0], [2.0], [3.0], [4.0]] == log.seen[1].tolist()


def test_without_learning_and_noise_it_is_the_policy() -> None:
    """A card's moves, bit for bit in effect; and `learned` gives that policy back."""
    for made in (policy(), card("trimtab-v2")):
        control = ModelControl(made, noise=0.0, **(SMALL | {"fits": 0, "climbs": 0}))
        done, plain = driven(control, steps=60), driven(made, steps=60)  # type: ignore[arg-type]
        torch.testing.assert_close(done.values, plain.values, rtol=1e-6, atol=0)
        again = control.learned(done.state["mind"])
        torch.testing.assert_close(driven(again, steps=60).values, plain.values, rtol=1e-6, atol=0)  # type: ignore[arg-type]


def test_a_live_run_learns_what_a_simulated_one_learns() -> None:
    """The same seed: the same rates and the same weights of the policy, beside a live optimizer."""
    task, control = task_named("quadratic-v1"), ModelControl(policy(), **SMALL)
    done = driven(control, (3,), 240)
    model = task.build(3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    pilot = trimtab.attach(optimizer, control, horizon=240, guard=False)
    stream = Stream(task, (3,), dtype=F64)
    for _ in range(240):
        batch = stream.next()
        loss = task.loss(model, Batch(batch.x[0], batch.y[0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    mine, other = (control.learned(state) for state in (pilot._state["mind"], done.state["mind"]))
    for name, weight in mine.named_parameters():
        torch.testing.assert_close(weight, other.get_parameter(name), rtol=1e-6, atol=1e-9)
        assert name == "hidden_bias" or not torch.equal(weight, control.policy.get_parameter(name))


@pytest.mark.slow
def test_it_learns_within_its_runs() -> None:
    """From nothing, over two dozen runs of bowls from rates too low or too high, it ends far lower than no move."""
    setting = Setting(task_named("quadratic-v1"), prior="hold")
    plant, still = setting.plant(), Policy.for_panel(LR, 8, prior="hold")
    control, ends = ModelControl(still, kept=256), []
    for number in range(24):
        numbers = [200 + 2 * number, 201 + 2 * number]
        for who in (control, still):
            values, guard = setting.values(plant, numbers), trimtab.Guard()
            done = rollout(plant, who, values, seeds=numbers, steps=100, horizon=100, guard=guard)
            ends.append(plant.loss_on(done.copies, plant.split("val")).double().log().mean())
            if who is control:
                after = control.after(done.state["mind"])
        control = after
    learned, unmoved = torch.stack(ends).reshape(24, 2)[-5:].mean(0).tolist()
    assert learned < unmoved - 0.3


def test_settings_that_do_not_hold_are_refused() -> None:
    """Each by its law; other members than it has learned in, too."""
    for changed in ({"fits": -1}, {"length": 17}, {"kept": 3}, {"penalty": -1.0}):
        with pytest.raises(KnobError, match="Control by a model needs"):
            ModelControl(policy(), **changed)
    for form, memory in (({"kind": "gru"}, "kind 'gru'"), ({"calm": 0.5}, "calm 0.5")):
        with pytest.raises(KnobError, match=f"without memory .*got {memory}"):
            ModelControl(Policy.for_panel(LR, 4, **form))  # type: ignore[arg-type]
    control = ModelControl(policy(), **SMALL)
    with pytest.raises(KnobError, match="has learned in 2 runs, not in 3"):
        control.after(control.start(LR, 2, 1), noise=0.0).start(LR, 3, 1)
