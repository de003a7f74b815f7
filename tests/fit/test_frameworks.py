"""Laws of each framework: its example trains, logs and resumes bit for bit; where it is missing, one is told so."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab
from trimtab.errors import OrderError

pytestmark = pytest.mark.filterwarnings("ignore")  # frameworks warn of much that is not ours
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def alone() -> Any:
    """Give each test an Accelerate of its own: it keeps its state for the whole process."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def main(name: str) -> Any:
    """Give an example's `main`."""
    spec = importlib.util.spec_from_file_location(f"with_{name}", EXAMPLES / f"with_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def flat(tree: Any, where: str = "") -> dict[str, str]:
    """List a tree's leaves by path, numbers to the last digit."""
    if isinstance(tree, dict):
        return {k: v for name, entry in tree.items() for k, v in flat(entry, f"{where}.{name}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for i, entry in enumerate(tree) for k, v in flat(entry, f"{where}.{i}").items()}
    return {where: str(tree.tolist()) if isinstance(tree, torch.Tensor) else str(tree)}


def end(model: torch.nn.Module, pilot: trimtab.Pilot) -> tuple[dict[str, str], dict[str, str], str]:
    """Give all that two equal runs have alike: weights, the pilot's whole state, the last decision."""
    return flat(model.state_dict()), flat(pilot.state_dict()), str(pilot.trace.rows[-1])


def board(folder: Path, name: str) -> list[float]:
    """Read a scalar's values from TensorBoard's files in a folder, however deep they lie."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = folder.rglob("events.out.tfevents*")
    return [entry.value for entry in EventAccumulator(str(file)).Reload().Scalars(name)]


def learned(pilot: trimtab.Pilot) -> float:
    """Give by how much the training loss has fallen."""
    return pilot.trace.rows[0]["loss"] / pilot.trace.rows[-1]["loss"]


@pytest.mark.slow
def test_lightning_trains_logs_and_resumes(tmp_path: Path) -> None:
    """A checkpoint of Lightning's goes on bit for bit; its logger has a row with the rate at each decision."""
    run = main("lightning")
    straight = run(str(tmp_path / "straight"))
    run(str(tmp_path / "parts"), epochs=2)
    resumed = run(str(tmp_path / "parts"), checkpoint=str(tmp_path / "parts/last.ckpt"))
    assert end(straight.model, straight.pilot) == end(resumed.model, resumed.pilot)
    assert learned(straight.pilot) > 5
    logged = (tmp_path / "straight/lightning_logs/version_0/metrics.csv").read_text().splitlines()
    column = logged[0].split(",").index("trimtab/run/lr")
    rates = [float(row.split(",")[column]) for row in logged[1:] if row.split(",")[column]]
    assert len(straight.pilot.trace.rows) == len(rates)
    assert rates[-1] == pytest.approx(straight.pilot.get_last_lr()[0], rel=0.2)


@pytest.mark.slow
def test_fabric_trains_logs_and_resumes(tmp_path: Path) -> None:
    """`fabric.save` and `fabric.load` take the pilot along, bit for bit."""
    run = main("fabric")
    straight = run(str(tmp_path / "straight"))
    run(str(tmp_path / "parts"), epochs=2)
    resumed = run(str(tmp_path / "parts"), checkpoint=str(tmp_path / "parts/last.ckpt"))
    saved = [torch.load(tmp_path / f"{name}/last.ckpt", weights_only=False) for name in ("straight", "parts")]
    assert flat(saved[0]) == flat(saved[1])
    assert straight.get_last_lr() == resumed.get_last_lr()
    assert learned(straight) > 5
    assert "trimtab/run/lr" in next((tmp_path / "straight").rglob("metrics.csv")).read_text().splitlines()[0]


@pytest.mark.slow
def test_the_trainer_trains_logs_and_resumes(tmp_path: Path) -> None:
    """A tiny GPT-2 resumes bit for bit in mid-epoch; the history has the rate that was used, and the loss seen."""
    run = main("transformers")
    straight = run(str(tmp_path / "straight"))
    run(str(tmp_path / "parts"), steps=40)
    resumed = run(str(tmp_path / "parts"), resume=True)
    assert end(*straight) == end(*resumed)
    history = json.loads((tmp_path / "straight/checkpoint-60/trainer_state.json").read_text())["log_history"]
    told = [row for row in history if "loss" in row]
    assert [10, 20, 30, 40, 50, 60] == [row["step"] for row in told]
    used = {row["step"]: row["lr"] for row in straight[1].trace.rows}
    assert [used[row["step"]] for row in told] == pytest.approx([row["learning_rate"] for row in told], rel=1e-9)
    assert all("trimtab/run/lr" in row for row in told)
    # the loss that the pilot saw is the one that the Trainer logs: means of ten steps
    seen = [row["loss"] for row in straight[1].trace.rows if row["step"] in (20, 30, 40, 50, 60)]
    assert seen == pytest.approx([row["loss"] for row in told[1:]], rel=1e-4)


@pytest.mark.slow
def test_accelerate_trains_logs_and_resumes(tmp_path: Path) -> None:
    """`save_state` and `load_state` take the registered pilot along, bit for bit; its tracker has each epoch's rate."""
    run = main("accelerate")
    straight = run(str(tmp_path / "straight"))
    run(str(tmp_path / "parts"), epochs=2)
    resumed = run(str(tmp_path / "parts"), checkpoint=str(tmp_path / "parts/last"))
    assert end(*straight) == end(*resumed)
    assert learned(straight[1]) > 5
    rates = board(tmp_path / "straight", "trimtab/run/lr")
    assert 4 == len(rates)
    assert rates[-1] == pytest.approx(straight[1].get_last_lr()[0], rel=1e-6)


@pytest.mark.slow
def test_skorch_trains_logs_and_resumes(tmp_path: Path) -> None:
    """Parameters, optimizer, history and pilot, saved and loaded, go on bit for bit; each epoch has the rate."""
    run = main("skorch")
    for name in ("straight", "parts"):
        (tmp_path / name).mkdir()
    straight = run(str(tmp_path / "straight"))
    run(str(tmp_path / "parts"), epochs=2)
    resumed = run(str(tmp_path / "parts"), resume=True)
    ends = [end(net.module_, dict(net.callbacks_)["pilot"].pilot_) for net in (straight, resumed)]
    assert ends[0] == ends[1]
    rates = straight.history[:, "trimtab/run/lr"]
    assert 4 == len(rates)
    assert rates == resumed.history[:, "trimtab/run/lr"]
    assert straight.history[-1, "train_loss"] < 0.2 * straight.history[0, "train_loss"]


@pytest.mark.slow
def test_ignite_trains_logs_and_resumes(tmp_path: Path) -> None:
    """Ignite's Checkpoint takes the pilot along, bit for bit; its logger has each epoch's rate."""
    run = main("ignite")
    straight = run(str(tmp_path / "straight"))
    run(str(tmp_path / "parts"), epochs=2)
    resumed = run(str(tmp_path / "parts"), resume=True)
    assert end(*straight) == end(*resumed)
    assert learned(straight[1]) > 5
    rates = board(tmp_path / "straight", "pilot/trimtab/run/lr")
    assert 4 == len(rates)
    assert rates[-1] == pytest.approx(straight[1].get_last_lr()[0], rel=1e-6)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("lightning", "lightning", "lightning"),
        ("transformers", "transformers", "hf"),
        ("accelerate", "accelerate", "hf"),
        ("skorch", "skorch", "skorch"),
        ("ignite", "ignite", "ignite"),
    ],
)
def test_without_the_framework_one_is_told_what_to_install(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the package and the extra that brings it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"trimtab.fit.{module}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])
    words = f"needs {package}, which is not installed: pip install 'trimtab[{extra}]'."
    with pytest.raises(ImportError, match=re.escape(words)):
        importlib.import_module(f"trimtab.fit.{module}")


class Missing:
    """Makes a package look as if it were not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Find nothing, and refuse."""
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.slow
def test_the_package_of_adapters_imports_none() -> None:
    """`import trimtab.fit` loads no framework."""
    code = """
import sys
import trimtab.fit
print({"lightning", "transformers", "accelerate", "skorch", "ignite"} & sys.modules.keys())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set()" == found.stdout.strip()


def test_lightning_refuses_a_module_without_a_pilot_or_stepped_by_epochs() -> None:
    """The error says what `configure_optimizers` must return."""
    from lightning.pytorch import LightningModule, Trainer

    from trimtab.fit.lightning import PilotCallback

    class Module(LightningModule):
        def __init__(self, schedule: Any) -> None:
            super().__init__()
            self.layer, self.schedule = torch.nn.Linear(2, 1), schedule

        def training_step(self, batch: Any) -> torch.Tensor:
            return self.layer(batch).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}

    def fit(schedule: Any) -> None:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        trainer = Trainer(max_steps=1, callbacks=[PilotCallback()], enable_model_summary=False, **quiet)
        trainer.fit(Module(schedule), torch.utils.data.DataLoader(torch.ones(4, 2)))

    with pytest.raises(OrderError, match=r"needs one pilot among the schedulers .* found 0: return"):
        fit(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1))
    with pytest.raises(OrderError, match=r"stepped after each optimizer step: .* got 'epoch' and 1"):
        fit(lambda optimizer: trimtab.attach(optimizer, "constant"))


def test_the_trainer_refuses_a_callback_without_its_scheduler(tmp_path: Path) -> None:
    """The error says where the pilot belongs."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from trimtab.fit.transformers import PilotCallback

    model = GPT2LMHeadModel(GPT2Config(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pilot = trimtab.attach(optimizer, "constant")
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)
    data = [{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([1, 2])}] * 8
    trainer = Trainer(
        model, arguments, train_dataset=data, optimizers=(optimizer, None), callbacks=[PilotCallback(pilot)]
    )
    with pytest.raises(OrderError, match=r"Trainer\(optimizers=\(optimizer, pilot\), ...\), got LambdaLR"):
        trainer.train()


def test_accelerate_takes_an_accelerator_and_a_pilot() -> None:
    """A prepared pilot, or arguments the wrong way round, are refused; a prepared pilot still steps as it should."""
    from accelerate import Accelerator

    from trimtab.fit.accelerate import PilotSteps

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    pilot = trimtab.attach(optimizer, "constant")
    model, stepper, prepared = accelerator.prepare(layer, optimizer, pilot)
    with pytest.raises(
        OrderError, match=r"takes an Accelerator and a pilot .* got Accelerator and AcceleratedScheduler"
    ):
        PilotSteps(accelerator, prepared)
    for _ in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(3, 2)).square().mean())
            stepper.step()
            prepared.step()
            stepper.zero_grad()
    assert 3 == pilot.last_epoch
    assert not pilot.is_due


@pytest.mark.slow
def test_lightning_in_half_precision_tells_the_loss_without_its_scale() -> None:
    """With a GradScaler the pilot sees the loss and the gradient that the run has in single precision."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.plugins import MixedPrecision

    from trimtab.fit.lightning import PilotCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return (self.layer(batch).float() - batch.sum(1, keepdim=True)).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            self.pilot = trimtab.attach(optimizer, "constant")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.pilot, "interval": "step"}}

    seen = []
    for half in (False, True):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)] if half else []
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        trainer = Trainer(
            max_steps=10, callbacks=[PilotCallback()], plugins=plugins, enable_model_summary=False, **quiet
        )
        module = Module()
        x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        trainer.fit(module, torch.utils.data.DataLoader(x, batch_size=8))
        signals = module.pilot.trace.decisions[-1][1].seen.signals
        seen.append([*signals.losses[0].tolist(), float(signals.grad_sq)])
    assert seen[0] == pytest.approx(seen[1], rel=0.05)
