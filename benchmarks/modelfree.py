"""PPO beside evolution strategies on the same lessons, from untaught, at about the same cost.

Each teaches a policy of 16 hidden units for so many generations and is examined once, at the end; the number of
generations is set so that both cost about the same core-minutes, which every row tells.

    python benchmarks/modelfree.py [--seeds 3] [--results results/modelfree.jsonl]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch
from rows import append, facts

from trimtab.teach import School, read_course

METHODS = {
    "ppo": 'method = "ppo"\ngenerations = 40\nmembers = 32\nrate = 0.002',
    "evolution": 'method = "evolution"\ngenerations = 30\npairs = 24',
}
COURSE = """
seed = {seed}
[distribution]
horizons = [50, 300]
[teacher]
{teacher}
tasks = 2
[examination]
every = 1000
lessons = 16
"""


def main() -> None:
    """Teach, examine, print; append rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as there:
        for seed in range(args.seeds):
            for method, teacher in METHODS.items():
                row = taught(method, COURSE.format(seed=seed, teacher=teacher), Path(there))
                row = {"method": method, "seed": seed, **row}
                print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                if args.results is not None:
                    append(args.results, facts() | {"benchmark": "modelfree"} | row)


def taught(method: str, text: str, there: Path) -> dict[str, float]:
    """Teach one course in a folder of its own; the static runs of the examination are made once for all."""
    (there / "course.toml").write_text(text)
    folder, grids = there / method, there / "grids.json"
    folder.mkdir()
    if grids.is_file():
        shutil.copy(grids, folder)
    school = School(read_course(there / "course.toml"), folder)
    begin = time.process_time()
    school.teach()
    shutil.copy(folder / "grids.json", grids)
    shutil.rmtree(folder)
    curve = school.log.curve
    last = {name: round(curve[-1][name], 4) for name in ("generation", "median", "ninety", "worst", "lost")}
    teaching = curve[-1]["core_minutes"] - curve[0]["core_minutes"]
    return {
        **last,
        "untaught_median": round(curve[0]["median"], 4),
        "core_minutes": round(teaching, 2),
        "with_examination": round((time.process_time() - begin) / 60, 2),
    }


if __name__ == "__main__":
    main()
