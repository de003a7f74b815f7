"""Ask whether a school tells good cards from better ones: sit its examinations, kind by kind.

For each kind of a distribution's lessons, the first few that nobody is taught on; each card from seven learning rates
with two seeds; regret is the held-out loss over that of the best of 39 static runs. Rows of ``results/exams.jsonl``::

    OMP_NUM_THREADS=1 python benchmarks/exams.py trimtab-v1 other.safetensors [--kinds clean] [--lessons 8]
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import torch
from rows import append, facts

from trimtab.controllers import Policy
from trimtab.controllers.cards import card
from trimtab.knobs import Panel
from trimtab.teach import Distribution, Examination
from trimtab.teach.examination import Grids
from trimtab.teach.sketch import KINDS

RESULTS = Path(__file__).parent.parent / "results"
HORIZONS = (60, 1000)


@torch.no_grad()
def main() -> None:
    """Let each card sit each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cards", nargs="+", help="shipped cards, or files of weights")
    parser.add_argument("--school", default="teach-v2", choices=list(KINDS))
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--lessons", type=int, default=8)
    parser.add_argument("--grids", type=Path, help="a file that keeps the static runs")
    words = parser.parse_args()
    torch.set_num_threads(1)
    grids = Grids(panel := Panel.of(["lr"]), words.grids, seeds=1)
    for kind in words.kinds or KINDS[words.school]:
        known = Distribution(HORIZONS, name=words.school).examined(1000)
        lessons = tuple(islice((lesson for lesson in known if lesson.task.kind == kind), words.lessons))
        for name in words.cards:
            policy = Policy.load(name) if Path(name).is_file() else card(name)
            regrets, _, restores = Examination(lessons, panel, grids).regrets(policy)
            grids.save()
            row = {
                **{"school": words.school, "kind": kind, "lessons": len(lessons), "card": Path(name).stem},
                **{"median": float(regrets.median()), "geometric_mean": float(regrets.log().mean().exp())},
                **{"ninety": float(regrets.quantile(0.9)), "restores": float(restores.mean())},
                "medians": [round(float(median), 3) for median in regrets.median(1).values],
            }
            append(RESULTS / "exams.jsonl", facts() | row)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
