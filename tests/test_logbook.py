"""Laws of the page that a run leaves: it shows what was done and why, in a browser, from a phone to a wide screen."""

from __future__ import annotations

import functools
import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trimtab
from trimtab.heat import Heat, heat_map, told
from trimtab.logbook import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert('x')</script>"

# asks the page what it is to its reader; stands in front of it, so that it hears of every error
PROBE = """<script>
const heard = [];
window.addEventListener("error", event => heard.push(String(event.message || event.target)), true);
window.alert = text => heard.push("alert: " + text);
window.addEventListener("load", () => {
  const told = element => {
    element.scrollIntoView({block: "center", inline: "center"});
    const box = element.getBoundingClientRect();
    let under = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    while (under && !under.querySelector(":scope > title")) under = under.parentElement;
    return under ? under.querySelector(":scope > title").textContent : null;  // as a browser finds a tooltip
  };
  const cells = [...document.querySelectorAll("rect")].filter(cell => cell.querySelector("title"));
  const marks = [...document.querySelectorAll("g > title")].map(title => title.parentNode.querySelector("use"));
  const found = {
    heard,
    width: window.innerWidth,
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    loaded: performance.getEntriesByType("resource").map(entry => entry.name),
    scripts: document.scripts.length,
    pictures: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height),
    smallest: Math.min(...[...document.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
    cell: told(cells[7]),
    mark: told(marks[0]),
    words: document.body.innerText,
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
# a frame as wide as the reader's screen: without a screen a browser's own window is not below 500 pixels
FRAME = """<!doctype html><body><pre id="answer"></pre><script>
window.addEventListener("message", event => { document.getElementById("answer").textContent = event.data; });
</script><iframe src="probed.html" style="width: WIDTHpx; height: 1000px; border: 0"></iframe>"""


@functools.cache
def flown() -> trimtab.Pilot:
    """Train six layers, two of them with names to beware of, around a schedule, with two spoilt steps."""
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(8, 8), nn.Tanh())], nn.Linear(8, 1))
    groups = trimtab.groups(net, by="layer")
    groups[0]["name"], groups[1]["name"] = EVIL, "model.decoder.layers.11.self_attn.q_proj & co"
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    pilot = trimtab.attach(optimizer, "hypergradient", sites="groups", schedule=schedule, model=net)
    x = torch.randn(64, 8)
    for step in range(150):
        loss = (net(x).squeeze(-1) - x.sin().sum(-1)).square().mean() * (math.nan if step in (72, 120) else 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pilot.step(loss)
    return pilot


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_in_a_browser(width: int, tmp_path: Path) -> None:
    """It renders without an error and loads nothing; cells and marks tell what they are; nothing is too small."""
    page = tmp_path / "run.html"
    flown().report(str(page))
    found = asked(page, width)
    assert width == found["width"]
    assert [] == found["heard"] == found["loaded"]
    assert 1 == found["scripts"]  # the probe's own
    assert 4 == len(found["pictures"])
    assert min(found["pictures"]) > 100
    assert 0 >= found["overflow"]
    assert found["smallest"] >= 8.5  # pixels high: the exponents of a log axis; all else is 11 or more
    assert re.fullmatch(re.escape(EVIL) + r", step \d+: [\d.e-]+", found["cell"])
    assert "step 80, restore: the loss or the gradient is not finite" == found["mark"]
    for words in ("The pilot took ", "the schedule alone", "lr as a multiple of the schedule's", "not finite"):
        assert words in found["words"]


def asked(page: Path, width: int) -> dict[str, Any]:
    """Open a page with the probe in a browser of a width, and give its answer."""
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("<head>", f"<head>{PROBE}", 1))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1700,1200", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [str(BROWSER), *flags, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer is not None, done.stdout[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(answer[1]))
    return found


def test_a_page_has_the_ghost_of_the_schedule_and_a_map_of_the_sites(tmp_path: Path) -> None:
    """What the schedule alone would have set is a line; a name with a script in it is text; the page has no script."""
    flown().report(str(tmp_path / "run.html"))
    text = (tmp_path / "run.html").read_text()
    assert ">the schedule alone</text>" in text
    assert "<script" not in text
    assert html.escape(EVIL) in text
    assert "http" not in text
    rows = list(flown().trace.rows)
    assert next(row["schedule_lr"] for row in rows if row["site"] == EVIL) == 3e-3


def test_many_sites_are_a_map_alone(tmp_path: Path) -> None:
    """Beyond eight sites lines cannot be told apart: knobs are then shown as a map only."""
    net = nn.Sequential(*[nn.Linear(2, 2) for _ in range(12)])
    optimizer = torch.optim.SGD(trimtab.groups(net), lr=0.01)
    pilot = trimtab.attach(optimizer, "random", sites="groups")
    for _ in range(12):
        net(torch.ones(2, 2)).square().mean().backward()
        optimizer.step()
        pilot.step(1.0)
    write_report(pilot.trace, tmp_path / "run.html")
    assert 2 == (tmp_path / "run.html").read_text().count("<svg")


def test_a_map_of_many_steps_shows_the_last_of_each_column() -> None:
    """A thousand steps are 120 columns at most, a thousand rows stay a picture, and blanks are left blank."""
    long = heat_map(Heat("lr", ["a", "b"], list(range(1000)), [[1.0] * 999 + [2.0], [math.nan] * 1000]))
    assert 120 == long.count("<title>a, step")
    assert "<title>a, step 999: 2</title>" in long
    assert 0 == long.count("<title>b, step")
    tall = heat_map(Heat("lr", [str(i) for i in range(1000)], list(range(500)), [[0.5] * 500] * 1000))
    assert 20 * 1000 == tall.count(", step ")


def test_marks_stand_above_their_columns() -> None:
    """What happened is told with its step; a single step is a map too."""
    text = heat_map(Heat("lr", ["a"], [7], [[0.0]], [(7, "restore: <why>")]))
    assert "<title>step 7: restore: &lt;why&gt;</title>" in text


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0"), (6.1e-4, "6.1e-4"), (0.25, "0.25"), (1e5, "1.0e5"), (-0.05, "-5.0e-2")]
)
def test_numbers_are_told_in_two_digits(value: float, words: str) -> None:
    """As a rate is usually written."""
    assert words == told(value)
