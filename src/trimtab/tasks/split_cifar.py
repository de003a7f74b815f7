"""Small photographs in five phases of two classes each."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from trimtab.task import Split
from trimtab.tasks.cifar_resnet18 import CifarResNet18
from trimtab.tasks.phases import CLASSES, Phases

HIDDEN = 64


@final
class SplitCifar(Phases):
    """The images of ``cifar-resnet18-v1``, averaged to 16 x 16, read by two convolutions and a hidden layer.

    Airplane and automobile, bird and cat, deer and dog, frog and horse, ship and truck.

    Example:
        >>> SplitCifar().classes(4)
        (8, 9)
    """

    name: str = "split-cifar-v1"
    card: str = CifarResNet18.card

    def examples(self, split: Split) -> tuple[Tensor, Tensor]:
        """Give pixels ``[N, 3, 16, 16]`` and classes ``[N]``; downloaded at first use."""
        x, y = CifarResNet18().data(split)
        return nn.functional.avg_pool2d(x, 2), y

    def network(self) -> nn.Sequential:
        """Make the network."""
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, CLASSES),
        )
