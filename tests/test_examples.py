"""Contract: every example runs, and does what its first line says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))

# these have tests of their own in tests/fit
FRAMEWORKS = ["accelerate", "fabric", "ignite", "lightning", "skorch", "transformers"]

pytestmark = pytest.mark.filterwarnings("ignore:trimtab.attach. no taught controller")


def load(path: Path) -> ModuleType:
    """Import an example by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(name: str) -> Any:
    """Give an example's `main`."""
    return load(next(path for path in EXAMPLES if path.stem == name)).main


def test_every_example_is_tested_here() -> None:
    """No example stands without a test, and each fits on two screens."""
    frameworks = [f"with_{name}" for name in FRAMEWORKS]
    own = ["own_agent", "own_knob", "own_task"]
    first = ["batch_size", "hypergradient", "layer_wise", "offline", "online"]
    assert [*first, *own, "quickstart", "simulate", *frameworks] == [path.stem for path in EXAMPLES]
    assert max(len(path.read_text().splitlines()) for path in EXAMPLES) <= 90


def test_the_quickstart_comes_down_from_a_rate_that_is_far_too_high() -> None:
    """AdamW at lr 1 learns breast cancer under the controller."""
    assert example("quickstart")() < 0.3


def test_the_batch_grows_as_gradients_part() -> None:
    """Batches of 16 end larger, in many sizes, and every epoch is all 1,077 digits."""
    sizes = example("batch_size")()
    assert 16 == sizes[0]
    assert sizes[-2] > 24
    assert len(set(sizes)) > 5
    assert 0 == sum(sizes) % 6


def test_the_layers_end_at_rates_of_their_own() -> None:
    """Three layers that began alike end at three rates, all higher."""
    rates = example("layer_wise")()
    assert len(set(rates.values())) == 3
    assert min(rates.values()) > 1e-2


def test_a_hypergradient_leaves_a_rate_that_is_far_too_low() -> None:
    """From 1e-5 the held-out error falls below 0.7 of the variance; at that rate it would stay above 1."""
    error, knobs = example("hypergradient")()
    assert error < 0.7
    assert knobs["lr"] > 1e-3


@pytest.mark.slow
def test_traces_of_random_moves_teach_a_better_policy() -> None:
    """What is taught from them earns more on held-out runs than they did."""
    taught, rolled = example("offline")(runs=64, steps=700)
    assert taught > rolled + 0.3


def test_a_card_goes_on_learning_in_its_run() -> None:
    """The loss falls below a tenth of the targets' variance, and the policy's weights are not those of its card."""
    loss, change = example("online")()
    assert loss < 0.35
    assert change > 1e-3


def test_a_knob_of_the_users_own_is_turned() -> None:
    """A hundred digits overfit, so the dropout rate rises from 0.1."""
    assert example("own_knob")() > 0.3


def test_the_simulation_survives_every_rate() -> None:
    """Sixteen rates over seven decades all end finite, the best of them below 0.2."""
    losses = example("simulate")()
    assert bool(losses.isfinite().all())
    assert float(losses.min()) < 0.2


def test_an_agent_of_ones_own_learns() -> None:
    """On held-out instances thirty lines of search earn more than leaving the rate alone."""
    learned, still = example("own_agent")(rounds=3, members=16)
    assert learned > still + 0.5


def test_a_task_of_ones_own_is_an_environment() -> None:
    """A card that acts through the environment brings a run from a rate of 1e-5 to a fit."""
    losses = example("own_task")()
    assert losses[-1] < 0.1 < losses[0]
