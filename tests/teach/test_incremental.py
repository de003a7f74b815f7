"""Laws of class-incremental learning: phases bring their classes, choices do what they say, tests stay shut."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from trimtab.errors import TaskError
from trimtab.task import Split
from trimtab.tasks import digits
from trimtab.tasks.split_cifar import SplitCifar
from trimtab.tasks.split_digits import SplitDigits
from trimtab.teach.incremental import (
    CHOICES,
    KEPT,
    BanditChooser,
    Choice,
    Fixed,
    Learner,
    _distilled,
    course,
    learned,
    parted,
    searched,
)

TASK = SplitDigits()
MEANS = Choice(0.0, 0.1, "means")


def test_phases_part_the_digits() -> None:
    """Five phases of two classes hold every training digit once."""
    names = [TASK.classes(phase) for phase in range(TASK.phases)]
    assert sorted(name for pair in names for name in pair) == list(range(10))
    assert len(digits.digits("train")[1]) == sum(len(TASK.data("train", pair)[1]) for pair in names)
    with pytest.raises(TaskError, match="phases 0 to 4, got 5"):
        TASK.classes(5)


def test_a_phase_changes_nothing_in_place_and_keeps_few_examples() -> None:
    """The learner before it is as it was; ten of each class are kept; the same seed gives the same."""
    before = Learner.begin(TASK, 0)
    weights = [w.detach().clone() for w in before.network.parameters()]
    after = learned(before, TASK.data("train", (0, 1)), MEANS, 0)
    again = learned(before, TASK.data("train", (0, 1)), MEANS, 0)
    assert all(torch.equal(a, b) for a, b in zip(weights, before.network.parameters(), strict=True))
    pairs = zip(after.network.parameters(), again.network.parameters(), before.network.parameters(), strict=True)
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)
    assert [KEPT, KEPT] == torch.bincount(after.kept[1]).tolist()
    assert [0, 1] == (~after.means.isnan().any(1)).nonzero().flatten().tolist()


def test_class_means_are_what_they_say() -> None:
    """The means classifier names the class whose mean direction of the hidden layer is nearest."""
    learner = learned(Learner.begin(TASK, 1), TASK.data("train", (0, 1)), MEANS, 1)
    x, y = TASK.data("val", (0, 1))
    with torch.no_grad():
        hidden = torch.tanh(learner.network[0](x))
    cosines = torch.stack([torch.cosine_similarity(hidden, mean[None]) for mean in learner.means[:2]])
    right = (cosines.argmax(0) == y).double()
    expected = (right[y == 0].mean() + right[y == 1].mean()) / 2
    assert pytest.approx(float(expected), abs=1e-12) == learner.accuracy((x, y))


def test_distillation_is_the_divergence_from_the_old_network() -> None:
    """Zero where outputs agree up to a constant; else heat squared times KL of the softened outputs, by hand."""
    old = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    assert pytest.approx(0.0, abs=1e-12) == float(_distilled(old + 3, old))
    new = torch.tensor([[0.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    p, q = torch.softmax(old / 2, 1), torch.softmax(new / 2, 1)
    assert pytest.approx(float(4 * (p * (p / q).log()).sum(1).mean()), abs=1e-12) == float(_distilled(new, old))


def test_distillation_keeps_the_old_outputs() -> None:
    """After the second phase a strongly distilled network answers on old classes more as it did."""
    first = learned(Learner.begin(TASK, 0), TASK.data("train", (0, 1)), MEANS, 0)
    x, _ = TASK.data("train", (0, 1))
    apart = []
    for weight in (0.0, 10.0):
        after = learned(first, TASK.data("train", (2, 3)), Choice(weight, 0.01, "output"), 0)
        with torch.no_grad():
            apart.append(float(_distilled(after.network(x)[:, :2], first.network(x)[:, :2])))
    assert apart[1] < 0.5 * apart[0]


def test_parts_hold_every_example_once_and_each_class_alike() -> None:
    """Three tenths of each class judge; other seeds part otherwise."""
    x, y = TASK.data("train", (4, 5))
    (mine, _), (judged, others) = parted((x, y), 3)
    assert len(x) == len(mine) + len(judged)
    for name in (4, 5):
        assert round(0.3 * int((y == name).sum())) == int((others == name).sum())
    assert not torch.equal(parted((x, y), 4)[1][0], judged)


class Watched(SplitDigits):  # type: ignore[misc]  # the class is final for users, watched here
    """Notes which splits are asked for."""

    def __init__(self) -> None:
        self.asked: list[Split] = []

    def examples(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give it and note it."""
        self.asked.append(split)
        return super().examples(split)


@pytest.mark.slow
@pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA is not set")
def test_photographs_come_in_phases_too() -> None:
    """Two phases are learned far above chance, and the old classes are not all forgotten."""
    task = SplitCifar()
    assert 9000 == sum(len(task.data("train", task.classes(phase))[1]) for phase in range(task.phases))
    learner = Learner.begin(task, 0)
    for phase in (0, 1):
        learner = learned(learner, task.data("train", task.classes(phase)), Choice(1.0, 0.01, "means"), 0)
    assert learner.accuracy(task.data("val", (0, 1, 2, 3))) > 0.45
    assert (10, 64) == tuple(learner.means.shape)


@pytest.mark.slow
def test_choices_are_made_on_training_data_alone() -> None:
    """A search opens no other split, and a course opens the one that scores once a phase, after its choice."""
    task = Watched()
    found = searched(task, 3, 0)
    assert {"train"} == set(task.asked)
    assert found in CHOICES
    task = Watched()
    accuracies, chosen = course(task, BanditChooser(rounds=3), 0)
    assert ["train", "train", "val"] == task.asked[:3]
    assert 5 == task.asked.count("val") == len(accuracies) == len(chosen)
    assert "test" not in task.asked


@pytest.mark.slow
def test_a_bandit_takes_the_choice_that_pays() -> None:
    """Between one choice that learns and one that hardly does, it takes the first in every phase."""
    good, bad = MEANS, Choice(0.0, 1e-6, "output")
    _, chosen = course(TASK, BanditChooser(rounds=8, arms=(bad, good)), 0)
    assert [good] * 5 == chosen
    assert course(TASK, Fixed(good), 0)[0][-1] > 0.8
    with pytest.raises(TaskError, match="at least one trial"):
        searched(TASK, 0, 0)
