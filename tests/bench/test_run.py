"""One run of a race is a real run, and the same for everyone."""

from pathlib import Path

import pytest
import torch

from trimtab.bench.contender import DEFAULT, PLAINS, Contender, contender_named
from trimtab.bench.machine import Provenance
from trimtab.bench.rows import Row
from trimtab.bench.run import Cell, metric_on_test, run_cell
from trimtab.controllers import Policy
from trimtab.errors import TaskError
from trimtab.knobs import Panel
from trimtab.stream import Stream
from trimtab.tasks import task_named

F64 = torch.float64
PROVENANCE = Provenance("abc", "a machine", torch.__version__, "trimtab race")


def run(name: str, folder: Path, *, lr: float = 0.1, steps: int = 30, dtype: torch.dtype = torch.float64) -> Row:
    """Run one cell on the quadratic bowl."""
    return run_cell(Cell("quadratic-v1", contender_named(name), lr, 3, steps), folder, PROVENANCE, dtype=dtype)


def weights(folder: Path, row: Row) -> torch.Tensor:
    """Give the final weights that a run kept."""
    state = torch.load(folder / "weights" / f"{row.key}.pt", weights_only=True)
    return torch.cat([part.flatten() for name, part in sorted(state.items()) if name != "root"])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd", "onecycle", "linear"])
def test_a_schedule_under_a_pilot_is_torchs_own(schedule, tmp_path):
    """With and without a pilot a schedule ends at the same weights and passes the same validation losses."""
    ours, theirs = run(schedule, tmp_path), run(f"plain-{schedule}", tmp_path)
    assert ours.restores == 0
    assert [step for step, _ in theirs.curve] == [step for step, _ in ours.curve]
    for (_, expected), (_, actual) in zip(theirs.curve, ours.curve, strict=True):
        assert actual == pytest.approx(expected, abs=1e-12)
    assert torch.allclose(weights(tmp_path, theirs), weights(tmp_path, ours), rtol=0, atol=1e-12)


def test_every_contender_sees_the_same_data_in_the_same_order(tmp_path, monkeypatch):
    """All contenders of a seed draw the same batches and begin at the same weights."""
    drawn: dict[str, list[torch.Tensor]] = {}
    starts = set()
    draw = Stream.next

    def listen(self):
        batch = draw(self)
        drawn[name].append(batch.x)
        return batch

    monkeypatch.setattr(Stream, "next", listen)
    for name in (*DEFAULT, *PLAINS, "policy@layer"):
        drawn[name] = []
        starts.add(run(name, tmp_path, steps=12).curve[0])
    assert len(starts) == 1
    first = torch.stack(drawn["constant"])
    assert len(first) == 12
    assert all(torch.equal(first, torch.stack(batches)) for batches in drawn.values())


def test_a_run_that_diverges_is_a_row(tmp_path):
    """A learning rate far too large gives a row that says so, not an error."""
    row = run("plain-constant", tmp_path, lr=1e6, steps=300)
    assert row.is_diverged
    assert row.steps_to_target is None


def test_a_policy_for_averaged_runs_is_scored_at_the_average(tmp_path):
    """What it keeps and tells the losses of are averages, not the last weights."""
    row = run("constant", tmp_path, steps=40)
    policy = Policy.for_panel(Panel.of(["lr"]), 4, prior="constant", average=True)
    averaged = run_cell(Cell("quadratic-v1", Contender("mine", policy), 0.1, 3, 40), tmp_path, PROVENANCE, dtype=F64)
    assert averaged.train_loss == pytest.approx(row.train_loss, rel=1e-12)  # the same steps
    assert not torch.allclose(weights(tmp_path, row), weights(tmp_path, averaged), rtol=1e-3)
    assert averaged.val_loss != pytest.approx(row.val_loss, rel=1e-3)


def test_the_test_metric_is_that_of_the_kept_weights(tmp_path):
    """The test split is scored with the weights that the run ended with."""
    row = run("constant", tmp_path, dtype=torch.float32)
    task = task_named("quadratic-v1")
    metric = metric_on_test(task, tmp_path / "weights" / f"{row.key}.pt")
    distance = (task.data("test")[0].mean(0) - weights(tmp_path, row)).square()
    expected = float(0.5 * (torch.logspace(-1, 0, 32).square() * distance).sum())
    assert metric == pytest.approx(expected, rel=1e-4)


def test_keys_differ_where_runs_differ():
    """Two cells share a key only if they are the same run."""
    cells = [
        Cell("quadratic-v1", contender_named(name), lr, seed, steps)
        for name in ("cosine", "plain-cosine", "policy", "policy@layer", "hypergradient")
        for lr in (1e-3, 1e-2)
        for seed in (0, 1)
        for steps in (10, 20)
    ]
    assert len(cells) == len({cell.key for cell in cells})
    assert cells[0].key == Cell("quadratic-v1", contender_named("cosine"), 1e-3, 0, 10).key


@pytest.mark.parametrize(("name", "close"), [("cosin", "'cosine'"), ("plain-cosin", "'plain-cosine'")])
def test_an_unknown_contender_is_told_what_comes_close(name, close):
    """The error names what was meant."""
    with pytest.raises(TaskError, match=close):
        contender_named(name)


def test_a_site_suffix_must_be_known():
    """Only layers and blocks can decide on their own."""
    with pytest.raises(TaskError, match="'@layer' or '@block'"):
        contender_named("cosine@neuron")
