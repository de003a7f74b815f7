"""Laws of loggers: a pilot's metrics go into each with one call, and into a progress bar with a few words."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trimtab


def flown(log: Any, steps: int = 30) -> trimtab.Pilot:
    """Train a block of two layers with awkward names; log after each step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(trimtab.groups(net, by="layer"), lr=0.01, weight_decay=0.01)
    pilot = trimtab.attach(optimizer, "hypergradient", knobs=("lr", "weight_decay"), sites="groups", model=net)
    for number in range(steps):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
        optimizer.zero_grad()
        log(pilot)
    return pilot


@pytest.mark.slow
def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    """Every metric is a scalar of its own, at its step, to single precision."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path)

    def log(pilot: trimtab.Pilot) -> None:
        for name, value in pilot.metrics().items():
            writer.add_scalar(name, value, pilot.last_epoch)

    pilot = flown(log)
    writer.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    expected = pilot.metrics()
    assert expected.keys() == set(found.Tags()["scalars"])
    last = found.Scalars("trimtab/2/lr")[-1]
    assert (30, pytest.approx(expected["trimtab/2/lr"], rel=1e-6)) == (last.step, last.value)


class Store:
    """A logger that is as strict as W&B, MLflow and Trackio are together, and keeps what it is told."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        """Take a flat dictionary of floats, at a step that does not fall (W&B), under plain names (MLflow)."""
        assert all(type(value) is float for value in metrics.values())
        assert all(re.fullmatch(r"[\w\-. :/]{1,250}", name) for name in metrics)
        assert not self.rows or step >= max(self.rows)
        self.rows[step] = metrics

    log_metrics = log


@pytest.mark.parametrize("call", ["log", "log_metrics"])
def test_one_call_suits_them_all(call: str) -> None:
    """Metrics are flat, floats, plainly named, and come at steps that rise."""
    store = Store()
    pilot = flown(lambda pilot: getattr(store, call)(pilot.metrics(), step=pilot.last_epoch))
    assert list(range(1, 31)) == sorted(store.rows)
    assert pilot.get_last_lr() == [store.rows[30][f"trimtab/{site}/lr"] for site in ("0", "2")]


@pytest.mark.slow
def test_wandb_takes_them_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one writes a run's file."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.init(dir=str(tmp_path))
    flown(lambda pilot: wandb.log(pilot.metrics(), step=pilot.last_epoch))
    wandb.finish()
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.slow
def test_mlflow_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, where it is installed, gives back every metric."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not among the tests' tools")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'runs'}")
    with mlflow.start_run() as run:
        pilot = flown(lambda pilot: mlflow.log_metrics(pilot.metrics(), step=pilot.last_epoch))
    found = mlflow.get_run(run.info.run_id).data.metrics
    assert pilot.metrics().keys() == found.keys()
    assert found["trimtab/2/lr"] == pytest.approx(pilot.metrics()["trimtab/2/lr"])


@pytest.mark.slow
def test_trackio_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, where it is installed, keeps a line a step."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio", reason="trackio is not among the tests' tools")
    trackio.init(project="test", name="run")
    pilot = flown(lambda pilot: trackio.log(pilot.metrics(), step=pilot.last_epoch))
    trackio.finish()
    (file,) = tmp_path.rglob("*.db")
    with sqlite3.connect(file) as store:
        rows = store.execute("select step, metrics from metrics order by step").fetchall()
    assert list(range(1, 31)) == [row[0] for row in rows]
    assert pilot.metrics().keys() == json.loads(rows[-1][1]).keys()


def test_a_progress_bar_has_a_short_field() -> None:
    """Tqdm shows where the knobs are, without the loop's asking any tensor for its number."""
    from tqdm import tqdm

    text = io.StringIO()
    bar = tqdm(total=30, file=text, mininterval=0.0)

    def show(pilot: trimtab.Pilot) -> None:
        bar.set_postfix_str(pilot.brief(), refresh=False)
        bar.update()

    pilot = flown(show)
    bar.close()
    assert pilot.brief() in text.getvalue()
    assert len(pilot.brief()) < 70
