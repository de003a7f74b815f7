"""Contract: every piece of Python in the README and the documentation runs, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trimtab
from trimtab.rules import SGD
from trimtab.task import Batch

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = {
    str(page.relative_to(ROOT)): BLOCK.findall(page.read_text())
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # frameworks warn of much that is not ours
    pytest.mark.slow,
]


class Recorder:
    """Stands for a logger or a progress bar: takes any call of theirs."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        """Give a method that remembers what it was called with."""
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def reader() -> dict[str, Any]:
    """Give what a page's reader has at hand: a model, data, an optimizer, a loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    criterion = nn.MSELoss()
    names: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "trimtab": trimtab,
        "Batch": Batch,
        "model": model,
        "x": x[:16],
        "y": y[:16],
        "xv": x[16:32],
        "yv": y[16:32],
        "data": [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)],
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16),
        "criterion": criterion,
        "held_out": lambda: criterion(model(x[16:32]), y[16:32]),
        **{name: Recorder() for name in ("writer", "wandb", "mlflow", "trackio", "bar")},
    }
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    return names


def run(page: str, names: dict[str, Any]) -> None:
    """Run a page's pieces one after another; each finds what those before it made."""
    for number, code in enumerate(PAGES[page], 1):
        pilot = getattr(names.get("optimizer"), "_trimtab_pilot", None)
        if pilot is not None and "attach(" in code and "optimizer =" not in code:
            pilot.disable()  # a page shows several ways to attach to one optimizer
        exec(compile(code, f"{page}, piece {number}", "exec"), names)


@pytest.mark.parametrize("page", [page for page, pieces in PAGES.items() if pieces and page != "docs/fit.md"])
def test_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pieces of Python run in order, beside a model, an optimizer and a loader of the reader's."""
    monkeypatch.chdir(tmp_path)
    names = reader()
    if page == "docs/online.md":
        from trimtab.hypergrad import OneStepValidation

        names |= {"OneStepValidation": OneStepValidation, "policy": trimtab.Policy.for_panel(trimtab.Panel.of(["lr"]))}
    if page == "docs/environments.md":
        names["MyTask"] = lambda: trimtab.task_named("digits-mlp-v1")
    if page == "docs/offline.md":
        pytest.importorskip("minari")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        panel = trimtab.Panel.of(["lr"])
        names |= {"plant": trimtab.Plant(trimtab.task_named("quadratic-v1"), SGD(), panel), "Path": Path}
        names |= {"values": torch.full((64, 1, 1), 0.01), "controller": trimtab.controller_named("random")}
    if page == "docs/rules.md":
        names |= {"param": torch.randn(64, 5), "grad": torch.randn(64, 5)}
    run(page, names)


def test_the_page_on_frameworks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real frameworks, and FSDP in a process group of one."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    monkeypatch.chdir(tmp_path)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        names = reader()
        run("docs/fit.md", names)
    finally:
        torch.distributed.destroy_process_group()
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
    assert 1 == len(names["wandb"].calls) == len(names["bar"].calls)
    assert (tmp_path / "run" / "step-1000").is_dir()


def test_every_page_is_known() -> None:
    """The README and the guide have Python in them: a change of the pages' form would be noticed."""
    assert PAGES["README.md"]
    assert len(PAGES["docs/guide.md"]) > 3


def test_every_test_that_a_page_names_is_there() -> None:
    """A rule's test, named on the page on frameworks, is a function of the file that it names."""
    page, here, found = (ROOT / "docs/fit.md").read_text(), "tests/fit/test_frameworks.py", 0
    for line in page.splitlines():
        file = here
        for name, test in re.findall(r"`(tests/[\w/]+\.py)?::(test_\w+)`", line):
            file = name or file
            assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
            found += 1
    assert found > 40
    assert all(f"| R{number} |" in page for number in range(1, 21))
