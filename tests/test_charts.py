"""Charts stand inside a page: text as text, ids of their own, nothing loaded."""

import math
import re
import sys

import pytest

from trimtab.charts import Line, Mark, Panel, chart, grid, shades

LINE = Line([1, 10, 100], [1.0, 0.1, math.inf], "one <b>", low=[0.9, 0.09, 0.1], high=[1.1, 0.2, 0.3], marker="o")
PANEL = Panel("Title & more", "step", "loss", [LINE], [Mark(10, 0.1, "event"), Mark(5)], is_log_x=True, is_log_y=True)


def test_a_chart_is_one_element_that_loads_nothing():
    """A chart is an svg element without an address of any kind."""
    svg = chart(PANEL)
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert "http" not in svg
    assert 'aria-label="Title &amp; more"' in svg


def test_text_is_text():
    """Labels can be read, searched and copied."""
    svg = chart(PANEL)
    for text in ("step", "loss", "one &lt;b&gt;", "event"):
        assert f">{text}</text>" in svg


def test_ids_do_not_clash():
    """Two charts on a page share no id, and every reference finds its own."""
    both = chart(PANEL) + grid([PANEL, Panel("other", "x", "y", [LINE])])
    ids = re.findall(r'\bid="([^"]+)"', both)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', both)) <= set(ids)


def test_a_chart_is_the_same_each_time():
    """The same data gives the same text, so that pages can be compared."""
    assert chart(PANEL) == chart(PANEL)


def test_nothing_to_draw_is_no_error():
    """Lines without a finite value, or without points, give an empty chart."""
    assert "<svg" in chart(Panel("", "x", "y", [Line([1, 2], [math.nan, math.inf]), Line([], [])], is_log_y=True))


def test_shades_differ():
    """Ordered colours are hexadecimal and differ."""
    assert len(set(shades(7))) == 7
    assert all(re.fullmatch(r"#[0-9a-f]{6}", color) for color in shades(7) + shades(1))


def test_without_matplotlib_the_way_out_is_named(monkeypatch):
    """Where matplotlib is missing, the error says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'trimtab\[report\]'"):
        chart(PANEL)
