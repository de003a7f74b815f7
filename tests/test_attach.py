"""Laws of attach: one call, and where it cannot be, one sentence that says why and what to do; nothing is changed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as torch_schedules

import trimtab
from trimtab.controllers import KnobDescent, Plateau
from trimtab.errors import KnobError, OrderError, SignalError, TaskError, TraceError
from trimtab.knobs import Panel


def adam(**options: Any) -> torch.optim.AdamW:
    """Make AdamW over two layers, a group each, with one tensor for all rates."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    options = {"lr": torch.tensor(0.01), "foreach": False} | options
    return torch.optim.AdamW(trimtab.groups(model), **options)


class Wrapper:
    """Stands for an optimizer that a framework has wrapped."""

    def __init__(self) -> None:
        self.optimizer = adam()
        self.param_groups = self.optimizer.param_groups


class NeedsValidation:
    """A controller that decides by a validation loss."""

    name = "validated"
    needs = frozenset({"val_loss"})

    def prior(self, panel: Any, horizon: int | None) -> Tensor | None:
        """Give None."""
        return None

    def start(self, panel: Any, members: int, sites: int) -> Any:
        """Give None."""
        return None

    def act(self, seen: Any, state: Any) -> tuple[Tensor, Any]:
        """Leave it."""
        return torch.zeros_like(seen.position), state


def with_empty_group() -> torch.optim.Optimizer:
    """Make an optimizer of which one group has no parameter."""
    optimizer = adam()
    optimizer.add_param_group({"params": []})
    return optimizer


Case = tuple[Callable[[], Any], dict[str, Any], type[Exception], str]
CASES: dict[str, Case] = {
    "a wrapper": (Wrapper, {}, SignalError, r"must be a torch.optim.Optimizer, got Wrapper: attach to the raw one"),
    "parameters": (lambda: [nn.Parameter(torch.ones(1))], {}, SignalError, r"torch.optim.Optimizer, got list"),
    "a typo": (adam, {"controller": "cosin"}, TaskError, r"No controller is named 'cosin': did you mean 'cosine'"),
    "a stranger": (adam, {"controller": "qqqq"}, TaskError, r"No controller is named 'qqqq': known are constant, cos"),
    "a class": (adam, {"controller": Plateau}, SignalError, r"`controller` must be a name or have `name`, `needs`"),
    "an object": (adam, {"controller": object()}, SignalError, r"`controller` must be a name or have `name`"),
    "a knob unknown": (adam, {"knobs": ("lrr",)}, KnobError, r"'lrr' is no standard knob \(lr, weight_decay"),
    "a knob not there": (adam, {"knobs": ("momentum",)}, KnobError, r"no hyperparameter 'momentum' \(it has amsgrad"),
    "a knob of 0": (lambda: adam(weight_decay=0.0), {"knobs": ("weight_decay",)}, KnobError, r"is 0 in every group"),
    "a bare name": (adam, {"knobs": "lr"}, KnobError, r"`knobs` must be a sequence of names or Knobs, such as"),
    "no knob": (adam, {"knobs": ()}, KnobError, r"A panel needs at least one knob, got none"),
    "a knob twice": (adam, {"knobs": ("lr", "lr")}, KnobError, r"must have different names, got \['lr', 'lr'\]"),
    "horizon 0": (adam, {"horizon": 0}, SignalError, r"`horizon` must be a whole number .* or None, got 0"),
    "horizon True": (adam, {"horizon": True}, SignalError, r"`horizon` must be a whole number .* got True"),
    "horizon 1e3": (adam, {"horizon": 1e3}, SignalError, r"`horizon` must be a whole number .* got 1000.0"),
    "no horizon": (adam, {"controller": "cosine"}, OrderError, r"'cosine' follows a schedule and needs `horizon="),
    "every 0": (adam, {"every": 0}, SignalError, r"`every` must be a whole number of steps of at least 1, got 0"),
    "every 2.5": (adam, {"every": 2.5}, SignalError, r"`every` must be a whole number .* got 2.5"),
    "a mode typo": (adam, {"mode": "acts"}, SignalError, r"`mode` must be 'observe', 'suggest' or 'act', got 'acts'"),
    "a sites typo": (adam, {"sites": "layer"}, KnobError, r"`sites` must be 'run' or 'groups', got 'layer'"),
    "a guard typo": (adam, {"guard": "on"}, SignalError, r"`guard` must be True, False or a Guard, got 'on'"),
    "a model's class": (
        adam,
        {"model": nn.Linear},
        SignalError,
        r"`model` must be a torch.nn.Module or None, got type",
    ),
    "no val loss": (adam, {"controller": NeedsValidation()}, SignalError, r"needs a validation loss: give `validate="),
    "a number to validate": (adam, {"validate": 0.3}, SignalError, r"`validate` must be a function .* got float"),
    "validate at 7": (
        adam,
        {"validate": lambda: 1.0, "validate_every": 7},
        SignalError,
        r"`validate_every` must be a positive multiple of every=10, got 7",
    ),
    "nothing to validate": (adam, {"validate_every": 50}, SignalError, r"`validate_every` needs `validate=`"),
    "an lr of NaN": (lambda: _set(adam(), math.nan), {}, KnobError, r"Knob 'lr' must be a finite number of at least 0"),
    "an lr below 0": (
        lambda: _set(adam(), -0.1),
        {},
        KnobError,
        r"Knob 'lr' must be a finite number of at least 0 in group 0, got -0.1",
    ),
    "an lr of 0": (lambda: adam(lr=0.0), {}, KnobError, r"Knob 'lr' is 0 in every group it should turn"),
    "an empty site": (with_empty_group, {"sites": "groups"}, SignalError, r"Every site needs at least one parameter"),
    "no rule": (
        lambda: torch.optim.Adagrad(nn.Linear(2, 1).parameters()),
        {"controller": KnobDescent()},
        TaskError,
        r"class must be exactly one of .* got torch.optim.adagrad.Adagrad",
    ),
    "complex with hypergrad": (
        lambda: torch.optim.SGD([nn.Parameter(torch.ones(2, dtype=torch.complex64))], lr=0.1),
        {"controller": KnobDescent()},
        SignalError,
        r"cannot be measured of sharded or complex parameters",
    ),
    "no scheduler": (adam, {"schedule": "cosine"}, SignalError, r"`schedule` must be .*LRScheduler or None, got str"),
    "a trace in a file": (
        adam,
        {"trace": Path(__file__) / "x.jsonl"},
        TraceError,
        r"cannot be opened .* or trace=None",
    ),
    "a trace that is none": (adam, {"trace": Path(__file__)}, TraceError, r"is no trace: its first line is no header"),
}


def _set(optimizer: torch.optim.Optimizer, lr: float) -> torch.optim.Optimizer:
    """Set a rate behind the constructor's back."""
    optimizer.param_groups[0]["lr"] = lr
    return optimizer


def picture(optimizer: Any) -> Any:
    """List all that a refused call must leave: the very objects in the groups, and the hooks."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_load_state_dict_post_hooks)
    fields = [(name, id(v) if isinstance(v, Tensor) else v) for group in optimizer.param_groups for name, v in
              group.items() if name != "params"]  # fmt: skip
    return [len(hook) for hook in hooks], copy.deepcopy(fields), hasattr(optimizer, "_trimtab_pilot")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:trimtab.attach")
def test_what_cannot_be_is_refused_in_one_sentence(name: str) -> None:
    """Each mistake gets a sentence with the value and the way out, and leaves the optimizer as it was."""
    make, arguments, kind, words = CASES[name]
    optimizer = make()
    before = picture(optimizer) if not isinstance(optimizer, list) else None
    arguments = {"controller": "constant"} | arguments
    with pytest.raises(kind, match=words) as caught:
        trimtab.attach(optimizer, **arguments)
    assert "\n" not in str(caught.value)
    if before is not None:
        assert str(before) == str(picture(optimizer))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (torch_schedules.ReduceLROnPlateau, r"ReduceLROnPlateau needs a metric: give `validate=`, at each of"),
        (lambda o: torch_schedules.StepLR(adam(), 3), r"`schedule` must be one on this optimizer, got one on another"),
        (lambda o: trimtab.attach(adam(), "constant"), r"`schedule` must be a .*LRScheduler or None, got Pilot"),
    ],
)
def test_a_schedule_that_cannot_be_wrapped_is_refused(make: Any, words: str) -> None:
    """A schedule that needs a metric, one on another optimizer, or a pilot."""
    optimizer = adam()
    schedule = make(optimizer)
    before = picture(optimizer)
    with pytest.raises(SignalError, match=words):
        trimtab.attach(optimizer, "constant", schedule=schedule)
    assert str(before) == str(picture(optimizer))


def test_a_second_pilot_is_refused_until_the_first_lets_go() -> None:
    """One optimizer has one pilot at a time."""
    optimizer = adam()
    pilot = trimtab.attach(optimizer, "constant")
    before = picture(optimizer)
    with pytest.raises(OrderError, match=r"has a pilot already: call its `disable\(\)` first"):
        trimtab.attach(optimizer, "constant")
    assert str(before) == str(picture(optimizer))
    pilot.disable()
    trimtab.attach(optimizer, "constant")


def test_a_pilot_that_let_go_mends_no_checkpoint() -> None:
    """What a checkpoint puts into the groups afterwards is what is there, as in an optimizer without a pilot."""
    optimizer, state = adam(), adam(lr=0.05, foreach=None).state_dict()
    trimtab.attach(optimizer, "constant").disable()
    optimizer.load_state_dict(state)
    assert [0.05, 0.05] == [group["lr"] for group in optimizer.param_groups]
    assert not any(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)


def test_a_refused_trace_s_file_is_left_alone(tmp_path: Path) -> None:
    """A call refused for any other reason makes no trace file, and one refused for its file leaves that as it was."""
    with pytest.raises(KnobError):
        trimtab.attach(adam(), "constant", knobs=("momentum",), trace=tmp_path / "a.jsonl")
    with pytest.raises(KnobError, match="turns the knobs lr"):
        trimtab.attach(adam(), "trimtab-v2", knobs=("lr", "weight_decay"), trace=tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())
    path = tmp_path / "b.jsonl"
    path.write_text("mine\n")
    with pytest.raises(TraceError):
        trimtab.attach(adam(), "constant", trace=path)
    assert "mine\n" == path.read_text()


def test_the_default_is_the_shipped_card() -> None:
    """Without a name the learning rate alone is turned, by `trimtab-v6`; a name and a Policy give the same moves."""
    from trimtab.controllers.cards import card

    runs = []
    for controller in (None, "trimtab-v6", card("trimtab-v6")):
        torch.manual_seed(0)
        optimizer = adam()
        pilot = trimtab.attach(optimizer, controller, horizon=30)
        assert ("lr",) == pilot._helm.panel.names
        for _ in range(30):
            optimizer.zero_grad()
            loss = sum((p.square().sum() for p in optimizer.param_groups[0]["params"]), torch.zeros(()))
            loss.backward()
            optimizer.step()
            pilot.step(loss)
        runs.append(pilot.get_last_lr())
        assert pilot.get_last_lr() != [1e-3, 1e-3]
    assert runs[0] == runs[1] == runs[2]


def test_a_policy_brings_its_knobs() -> None:
    """Without `knobs` a policy turns what it was taught on, momentum under the name that the optimizer has for it."""
    policy = trimtab.Policy.for_panel(Panel.of(["lr", "momentum"]))
    assert ("lr", "beta1") == trimtab.attach(adam(), policy, horizon=10)._helm.panel.names


def test_the_default_tells_once_what_it_is() -> None:
    """Where no shipped card was taught on these knobs the default is an untaught policy, and says so a single time."""
    import importlib

    module = importlib.import_module("trimtab.attach")
    module._tell_once.cache_clear()
    with pytest.warns(UserWarning, match=r"no shipped card was taught on these knobs \(beta2\)"):
        trimtab.attach(adam(), knobs=("beta2",), horizon=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trimtab.attach(adam(), knobs=("beta2",), horizon=10)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4), ("lr", "momentum", "weight_decay")),
        (lambda p: torch.optim.SGD(p, lr=0.1), ("lr", "momentum")),
        (torch.optim.AdamW, ("lr", "beta1", "weight_decay")),
        (torch.optim.Adam, ("lr", "beta1")),
        (torch.optim.RMSprop, ("lr", "momentum")),
        (torch.optim.Adagrad, ("lr",)),
    ],
)
def test_default_knobs_are_usual_for_the_optimizer(make: Any, names: tuple[str, ...]) -> None:
    """What is 0 and cannot leave it is left out."""
    optimizer = make(nn.Linear(2, 1).parameters())
    assert names == trimtab.default_knobs(optimizer).names
    trimtab.attach(optimizer, "constant", knobs="default")


def test_sites_are_the_run_or_the_groups() -> None:
    """With "groups" every group is turned and traced under its own name."""
    assert ("run",) == trimtab.attach(adam(), "constant").trace.header.sites
    assert ("0", "1") == trimtab.attach(adam(), "constant", sites="groups").trace.header.sites


def test_the_horizon_and_the_pace_are_in_the_trace(tmp_path: Path) -> None:
    """A trace says what it was made with, and grows by a row a decision."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pilot = trimtab.attach(optimizer, "cosine", horizon=30, every=5, trace=tmp_path / "run" / "trace.jsonl")
    for _ in range(11):
        loss = model(torch.ones(2, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    header, rows = trimtab.read_trace(tmp_path / "run" / "trace.jsonl")
    assert ("cosine", {"horizon": 30, "every": 5}) == (header.controller, header.note)
    assert [1, 2, 4, 5, 7, 10] == [row["step"] for row in rows]
