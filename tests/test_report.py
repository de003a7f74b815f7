"""What a pilot says about itself: numbers, sentences, a page."""

import dataclasses
import math
import re

import pytest
import torch

from trimtab.attach import attach
from trimtab.controllers import Greedy, HypergradientDescent, Plateau, Policy, Random, WarmupCosine
from trimtab.errors import TraceError
from trimtab.features import CLOCK, RUN, SITE, Features
from trimtab.knobs import Panel
from trimtab.logbook import Record, write_report
from trimtab.reasons import PHRASES, attributions, phrase_of
from trimtab.sites import groups
from trimtab.trace import read_trace


def taught(kind="mlp", scale=0.3):
    """Give a policy whose last layer is not zero."""
    policy = Policy.for_panel(Panel.of(["lr"]), hidden=8, kind=kind)
    with torch.no_grad():
        policy.out_weight.copy_(
            scale * torch.randn(policy.out_weight.shape, generator=torch.Generator().manual_seed(1))
        )
    return policy


def fly(controller, *, steps=60, lr=0.05, by="run", bad=(), **options):
    """Train a small net under a pilot; at the steps in `bad` the loss is not finite."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        x = torch.randn(32, 4)
    optimizer = torch.optim.SGD(groups(net, by=by), lr=lr)
    sites = "run" if by == "run" else "groups"
    pilot = attach(optimizer, controller, horizon=max(1, steps), sites=sites, **options)
    for step in range(1, steps + 1):
        loss = (net(x).squeeze(-1) - x.sum(-1)).square().mean() * (math.nan if step in bad else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss.detach())
    return pilot


def test_metrics_are_what_a_logger_wants():
    """Metrics are floats under trimtab/: knobs by site, counts, some features."""
    pilot = fly(HypergradientDescent(), by="layer")
    metrics = pilot.metrics()
    assert {"trimtab/0/lr", "trimtab/2/lr", "trimtab/decisions", "trimtab/restores", "trimtab/skipped"} <= set(metrics)
    assert pilot.get_last_lr() == pytest.approx([metrics["trimtab/0/lr"], metrics["trimtab/2/lr"]])
    assert metrics["trimtab/decisions"] == 10
    assert all(isinstance(value, float) for value in metrics.values())
    assert "trimtab/feature/noise" in metrics


def test_a_turn_under_a_schedule_is_told_as_it_is():
    """Around a schedule the words give the rate that the next step uses, not the controller's share of it."""
    net = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    pilot = attach(optimizer, "random", schedule=schedule)
    for number in range(10):
        loss = net(torch.randn(8, 4, generator=torch.Generator().manual_seed(number))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    used, then = re.search(r"step 10  lr (\S+) → (\S+)", pilot.explain(last=1)).groups()
    assert float(used) == pytest.approx(pilot.trace.rows[-1]["lr"], rel=0.05)
    assert float(then) == pytest.approx(pilot.get_last_lr()[0] / 0.8, rel=0.06)  # the schedule has gone on as well
    assert pilot.trace.rows[-1]["schedule_lr"] == pytest.approx(0.05 * 0.8**9)


def test_a_few_words_for_a_progress_bar():
    """The knobs, where the last decision moved them to, and how often the guard went back."""
    assert re.fullmatch(r"lr 5\.0e-2", fly(Plateau(), steps=3).brief())
    assert re.fullmatch(r"lr [\d.e-]+(…[\d.e-]+)?[↑↓] · back 1×", fly(Random(), by="layer", bad=(30,)).brief())


def test_metrics_before_the_first_step():
    """Before the first step there are knobs and counts, and no features."""
    metrics = fly(Plateau(), steps=0).metrics()
    assert {
        "trimtab/run/lr",
        "trimtab/run/lr_position",
        "trimtab/decisions",
        "trimtab/restores",
        "trimtab/skipped",
        "trimtab/overhead",
    } == set(metrics)
    assert metrics["trimtab/run/lr"] == 0.05


@pytest.mark.parametrize(
    ("controller", "words"),
    [
        (WarmupCosine(), r"follows its schedule$"),
        (HypergradientDescent(), r"because cos\(gradient, last update\) = -?\d\.\d\d$"),
        (Plateau(patience=0, threshold=0.5), r"because there was no improvement over 0 readings$"),
        (Greedy(patience=0), r"because the loss improved more than 0 readings in a row$"),
        (Random(), r"because it was drawn at random$"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_controller_gives_its_own_reason(controller, words):
    """Every line names step, knob, old and new value, and the controller's own reason."""
    lines = fly(controller).explain(last=20).splitlines()
    line = re.compile(r"^step \d+  lr [\d.e-]+ → [\d.e-]+  ")
    assert lines
    assert all(line.match(text) and re.search(words, text) for text in lines)


def test_a_policy_names_the_feature_that_moved_it():
    """At every site a policy's reason is the phrase of one of its features."""
    lines = fly(taught(), by="layer").explain(last=3).splitlines()
    assert {"0.lr", "2.lr"} == {line.split()[2] for line in lines}
    phrases = [phrase_of(name)[0] for name in Features(Panel.of(["lr"])).names]
    assert all(any(f"because {phrase}" in line for phrase in phrases) for line in lines)


def test_an_untaught_policy_follows_its_schedule():
    """A policy whose last layer is zero turns nothing: only its schedule changes the rate."""
    lines = fly(Policy.for_panel(Panel.of(["lr"]))).explain(last=2).splitlines()
    assert lines
    assert all(line.endswith("follows its schedule") for line in lines)


def test_attributions_are_slopes_times_changes():
    """To first order the attributions add up to the change of the move."""
    policy = taught(scale=0.01)
    (_, before), (_, decision) = list(fly(policy).trace.decisions)[-2:]
    share = attributions(policy, Panel.of(["lr"]), decision, before, 0, 0)
    seen, last = decision.seen.features.detach(), before.seen.features.detach()
    step = 1e-4
    nudged = last + (1 - step) * (seen - last)

    def move(features):
        return float(policy.act(dataclasses.replace(decision.seen, features=features), {})[0].detach())

    assert float(share.sum()) == pytest.approx((move(seen) - move(nudged)) / step, rel=1e-2)


def test_a_policy_with_a_memory_is_explained_too():
    """A recurrent policy is asked as if it had just begun."""
    assert "because" in fly(taught("gru")).explain(last=3)


def test_a_restore_is_told_with_its_reason():
    """A guard's event is one line with its reason, in place of the knobs' lines."""
    lines = fly(HypergradientDescent(), bad=(30,)).explain(last=20)
    assert re.search(r"^step 30  restore: the loss or the gradient is not finite; back to", lines, re.MULTILINE)


def test_before_the_first_decision_there_is_nothing_to_explain():
    """A pilot that has not decided says so, and one whose knobs stand still as well."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    assert attach(optimizer, "constant").explain() == "No decision has been made yet."
    assert fly(Plateau()).explain(last=3) == "No knob was turned in the last 3 decisions."


def test_every_feature_has_plain_words():
    """No feature is explained by its bare name."""
    assert set(RUN + SITE + CLOCK) == set(PHRASES)
    names = Features(Panel.of(["lr", "momentum"])).names
    assert all(phrase_of(name)[0] != name for name in names)


def test_a_report_is_one_page_that_needs_no_other(tmp_path):
    """The page of a live run holds its charts and its events, and loads nothing."""
    pilot = fly(taught(), by="layer", bad=(30,))
    pilot.report(str(tmp_path / "run.html"))
    text = (tmp_path / "run.html").read_text()
    assert text.count("<svg") == 4
    assert "The pilot took " in text
    assert "the loss or the gradient is not finite" in text
    assert "http" not in text
    assert "<script" not in text
    assert [tmp_path / "run.html"] == list(tmp_path.iterdir())


def test_a_report_of_a_file_is_that_of_the_run(tmp_path):
    """A page made of the trace's file equals the live one."""
    pilot = fly(HypergradientDescent(), trace=tmp_path / "run.jsonl")
    write_report(pilot.trace, tmp_path / "live.html")
    pilot.trace.close()
    write_report(Record(*read_trace(tmp_path / "run.jsonl")), tmp_path / "read.html")
    assert (tmp_path / "live.html").read_text() == (tmp_path / "read.html").read_text()


def test_a_report_of_an_empty_run(tmp_path):
    """A run without a decision has a page that says so."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    attach(optimizer, "constant").report(str(tmp_path / "run.html"))
    assert "before its first decision" in (tmp_path / "run.html").read_text()


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    """Where the page cannot be written the error says where, and no part of it stays."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="give another path"):
        fly(Plateau(), steps=1).report(str(tmp_path / "file" / "run.html"))
    assert [tmp_path / "file"] == list(tmp_path.iterdir())
