"""Greedy decides as transformers' GreedyLR."""

import math
from collections import deque

import pytest
import torch

from trimtab.controllers import Greedy
from trimtab.errors import KnobError
from trimtab.knobs import Knob, Panel

LOW, HIGH = 1e-3, 1.0
WIDE = Panel([Knob("lr", LOW, HIGH, "log", rate=20.0)])
NARROW = Panel([Knob("lr", LOW, HIGH, "log", rate=0.03)])


class _Source:
    """The published rule for one group, plainly: scalars, one loss at a time."""

    def __init__(self, lr, rule):
        self.rule, self.lr, self.first = rule, lr, lr
        self.restart()
        self.lives = rule.reset

    def restart(self):
        self.best, self.good, self.bad, self.cooling, self.warming = math.inf, 0, 0, 0, 0
        self.losses = deque(maxlen=self.rule.window)
        self.lives = self.rule.reset

    def step(self, loss):
        rule = self.rule
        self.losses.append(loss)
        loss = sum(self.losses) / len(self.losses)
        if self.cooling or self.warming:
            if self.cooling:
                self.cooling -= 1
            else:
                self.warming -= 1
            self.good = self.bad = 0
            return self.lr
        if loss < self.best - rule.threshold:
            self.best, self.bad, self.good = loss, 0, self.good + 1
        else:
            self.bad, self.good = self.bad + 1, 0
        if self.good > rule.patience:
            self.lr = min(self.lr / rule.factor, HIGH)
            self.lives, self.warming, self.good = rule.reset, rule.warmup, 0
        elif self.bad > rule.patience:
            self.lr = max(self.lr * rule.factor, LOW)
            if self.lr <= LOW:
                self.lives -= 1
                if self.lives <= 0:
                    self.restart()
                    self.lr = self.first
            self.cooling, self.bad = rule.cooldown, 0
        return self.lr


RULES = [
    Greedy(patience=1, factor=0.8),
    Greedy(patience=0, factor=0.5, reset=3),
    Greedy(patience=2, factor=0.7, warmup=2, cooldown=3, window=5, threshold=1e-3),
    Greedy(patience=0, factor=0.3, reset=2, cooldown=1, window=3),
]


def _losses(seed, length=300):
    rng = torch.Generator().manual_seed(seed)
    steps = torch.arange(length, dtype=torch.float64)
    noise = 0.02 * torch.randn(length, generator=rng, dtype=torch.float64)
    return (1.5 * torch.exp(-steps / 80) + 0.3 * torch.sin(steps / 25) + noise).tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_rate_gives_the_sources_rates(drive, rule, seed):
    """With room for a whole change in one move, the learning rate is the source's after every reading."""
    losses = _losses(seed)
    source = _Source(0.1, rule)
    expected = [source.step(loss) for loss in losses]
    rates, _ = drive(rule, WIDE, losses)
    assert rates == pytest.approx(expected, rel=1e-10)
    assert max(expected) > 0.1 > min(expected)


def test_a_change_is_carried(drive):
    """With a narrow rate a raise is paid over several readings, in full."""
    rule = Greedy(patience=3, factor=0.8, warmup=20)
    rates, state = drive(rule, NARROW, [1.0, 0.9, 0.8, 0.7] + [0.6] * 16)
    assert rates[3] < 0.1 / 0.8
    assert rates[-1] == pytest.approx(0.1 / 0.8, rel=1e-12)
    assert state["owed"].item() == 0


def test_an_infinite_loss_leaves_with_the_window(drive):
    """After the window has passed, one blown-up loss is forgotten."""
    rule = Greedy(patience=0, factor=0.9, window=3)
    rates, _ = drive(rule, WIDE, [1.0, math.nan, math.inf, 1.0, 1.0, 0.9, 0.5, 0.2, 0.1])
    assert rates[-1] > rates[4]


@pytest.mark.parametrize(
    "given", [{"factor": 0.0}, {"threshold": math.inf}, {"patience": -1}, {"window": 0}, {"reset": 0}]
)
def test_arguments_are_checked(given):
    """An argument outside its range is refused by name."""
    with pytest.raises(KnobError, match=next(iter(given))):
        Greedy(**given)
