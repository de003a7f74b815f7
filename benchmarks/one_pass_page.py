"""Take rows of ``trimtab bench one-pass`` into the results, and make the tables and the picture of its page again.

``python benchmarks/one_pass_page.py [ROWS ...]``: rows of other files replace those of the same key in
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
ROWS, PAGE, PICTURE = ROOT / "results/one-pass.jsonl", ROOT / "docs/one-pass.md", ROOT / "docs/one-pass.svg"


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(description="Make the one-pass page's tables again.")
    parser.add_argument("rows", nargs="*", type=Path, help="files of rows to take in first")
    known = {row["key"]: row for path in (ROWS, *parser.parse_args().rows) for row in read_rows(path)}
    ROWS.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in known.values()))

    def table(found: re.Match[str]) -> str:
        rows = [row for row in known.values() if row["table"] == found[2]]
        return f"{found[1]}\n{as_markdown(rows)}\n\n<!-- end -->"

    PAGE.write_text(re.sub(r"(<!-- rows: (\w+) -->\n).*?<!-- end -->", table, PAGE.read_text(), flags=re.DOTALL))
    picture = frontier([row for row in known.values() if row["table"] == "energy"])
    PICTURE.write_text(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


if __name__ == "__main__":
    main()
