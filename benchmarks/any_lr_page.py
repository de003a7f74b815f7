"""Take rows of ``trimtab bench any-lr`` into the results, and make the tables and pictures of their pages again.

``python benchmarks/any_lr_page.py [ROWS ...]``: rows of other files join those in ``results/any-lr.jsonl``,
``results/generalize.jsonl`` or ``results/longer.jsonl``, by their suite, and replace those of the same contender, heat
and rate; then each table of ``docs/any-lr.md``, between ``<!-- rows: SUITE overall -->`` or ``<!-- rows: SUITE tasks
-->`` and ``<!-- end -->``, is what the rows give. ``docs/any-lr.svg`` shows how much the first rate matters,
``docs/any-lr-rates.svg`` what the default card did, ``docs/teaching.svg`` the curves of the shipped cards' pages.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from trimtab.bench.anylr.bout import read_rows
from trimtab.bench.anylr.page import as_markdown, schedules, sensitivity
from trimtab.charts import PALETTE, Line, Panel, grid
from trimtab.controllers.cards import DEFAULT
from trimtab.controllers.cards import page as page_of

ROOT = Path(__file__).parent.parent
FILES = {"any-lr-v1": "any-lr", "generalize-v1": "generalize", "longer-v1": "longer"}
ROWS = {suite: ROOT / f"results/{name}.jsonl" for suite, name in FILES.items()}
DOCS = ROOT / "docs"
STATIC = ("constant", "cosine", "wsd", "onecycle")  # who sets the bar
SHOWN = (*STATIC, DEFAULT, f"{DEFAULT}+val", "hypergradient", "prodigy-cosine")
TAUGHT = (("trimtab-v1",), ("trimtab-v2", "trimtab-v3", "trimtab-v4"), ("trimtab-v6",), ("trimtab-v7",))  # in rows
BEFORE = ((), ("trimtab-v1",), ("trimtab-v1", "trimtab-v2"), ())  # what each row's first was begun from


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(description="Make the any-lr page's tables and pictures again.")
    parser.add_argument("rows", nargs="*", type=Path, help="files of rows to take in first")
    given = [row for path in parser.parse_args().rows for row in read_rows(path)]
    made = {}
    for suite, path in ROWS.items():
        known = {
            (row["contender"], row["key"], row["lr"]): row
            for row in [*read_rows(path), *(row for row in given if row["suite"] == suite)]
        }
        path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in known.values()))
        tables = as_markdown(list(known.values())).split("\n\n")
        made |= dict(zip((f"{suite} overall", f"{suite} tasks"), tables, strict=True))
    page = DOCS / "any-lr.md"
    page.write_text(
        re.sub(
            r"(<!-- rows: ([\w-]+ \w+) -->\n).*?<!-- end -->",
            lambda found: f"{found[1]}\n{made[found[2]].strip()}\n\n<!-- end -->",
            page.read_text(),
            flags=re.DOTALL,
        )
    )
    rows = read_rows(ROWS["any-lr-v1"])
    draw("any-lr", sensitivity([row for row in rows if row["contender"] in SHOWN]))
    draw("any-lr-rates", schedules([row for row in rows if row["contender"] in (*STATIC, DEFAULT)]))
    spent = [sum(told(card)[-1][0] for card in cards) for cards in BEFORE]
    draw("teaching", grid([curves(*row) for row in zip(TAUGHT, spent, strict=True)], columns=2, height=3.0))


def draw(name: str, picture: str) -> None:
    """Write a picture that stands alone."""
    (DOCS / f"{name}.svg").write_text(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def curves(cards: tuple[str, ...], spent: float) -> Panel:
    """Draw what a row of cards scored while they were taught, over the core-minutes from nothing."""
    lines = []
    for card in cards:
        points, color = told(card), PALETTE[[name for row in TAUGHT for name in row].index(card)]
        places = [spent + point[0] for point in points]
        for name, place, dash in (("median", 1, "-"), ("90 %", 2, "--")):
            values = [point[place] for point in points]
            lines.append(Line(places, values, f"{card}, {name}", color=color, dash=dash, marker="o"))
        spent += points[-1][0]
    return Panel(
        " to ".join(dict.fromkeys((cards[0], cards[-1]))),
        "core-minutes from nothing",
        "regret on held-out lessons",
        lines,
        y_range=(1.0, 3.2),
    )


def told(card: str) -> list[tuple[float, float, float]]:
    """Read a card's curve off its page: core-minutes, median regret, 90th percentile."""
    table = page_of(card).split("## Curve")[1].split("## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    head = rows[0]
    return [tuple(float(row[head.index(name)]) for name in ("core-minutes", "median", "90 %")) for row in rows[2:]]


if __name__ == "__main__":
    main()
