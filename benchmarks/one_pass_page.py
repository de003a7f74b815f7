"""Take rows of ``trimtab bench one-pass`` into the results, and make the tables and the picture of its page again.

``python benchmarks/one_pass_page.py [ROWS ...]``: rows of other files replace those of the same table and method in
``results/one-pass.jsonl``; then each table of ``docs/one-pass.md``, between ``<!-- rows: TABLE -->`` and
``<!-- end -->``, is what the rows give, and ``docs/one-pass.svg`` shows those of energy.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from trimtab.bench.anylr.bout import read_rows
from trimtab.bench.onepass.page import as_markdown, frontier

ROOT = Path(__file__).parent.parent
ROWS, PARTS = ROOT / "results/one-pass.jsonl", ROOT / "results/one-pass-parts.jsonl"
PAGE, PICTURE = ROOT / "docs/one-pass.md", ROOT / "docs/one-pass.svg"


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(description="Make the one-pass page's tables again.")
    parser.add_argument("rows", nargs="*", type=Path, help="files of rows to take in first")
    read = [row for path in (ROWS, *parser.parse_args().rows) for row in read_rows(path)]
    known = {(row["table"], row["method"], "ratio" in row): row for row in read}
    ROWS.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in known.values()))
    made = tables()
    page = re.sub(
        r"(<!-- rows: ([\w-]+) -->\n).*?<!-- end -->",
        lambda found: f"{found[1]}\n{made.get(found[2], '')}\n\n<!-- end -->",
        PAGE.read_text(),
        flags=re.DOTALL,
    )
    PAGE.write_text(page)
    picture = frontier([row for row in known.values() if row["table"] == "energy"])
    PICTURE.write_text(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def tables() -> dict[str, str]:
    """Give each table of the page as Markdown: one a problem that has rows, and "parts"."""
    rows = read_rows(ROWS)
    names = dict.fromkeys(row["table"] for row in rows)
    made = {name: as_markdown([row for row in rows if row["table"] == name]) for name in names}
    if parts := [{**row, "method": row["variant"]} for row in read_rows(PARTS)]:
        made["parts"] = as_markdown(parts)
    return made


if __name__ == "__main__":
    main()
