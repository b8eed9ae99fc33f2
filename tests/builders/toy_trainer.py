"""Stands for the Python of the role training in a search: a trial takes no time, and its best is known."""

from __future__ import annotations

import sys
from pathlib import Path

BEST_RIDGE = 500.0
_PROGRAM = """#!{python}
import os, sys, time
from pathlib import Path
import yaml
from training.record import FOLDER, TrainingFacts, end_with, instant, recorded

var, told = Path(os.environ["SHORTLIST_VAR_DIR"]), dict(zip(sys.argv[4::2], sys.argv[5::2]))
if "--check" in sys.argv:
    print("Prepare the data ...\\ntoy", "ab" * 32, "cd" * 32)
    raise SystemExit
settings = yaml.safe_load(Path(os.environ["SHORTLIST_SETTINGS"]).read_text())["two_tower"]
with (var / "calls").open("a") as calls:
    calls.write(told["--name"] + "\\n")
facts = TrainingFacts(name=told["--name"], kind="trial", dataset="toy", data_version="ab", parameters={{}},
                      part_of=told["--part-of"], began=instant())
end_with(var / FOLDER / told["--part-of"])
with recorded(var, facts) as record:
    if settings["ridge"] == 600:
        sys.exit("SHORTLIST_TWO_TOWER__RIDGE=600: is refused")
    while (var / "stall").exists() and len((var / "calls").read_text().splitlines()) > 2:
        time.sleep(0.05)
    record.metric("retrieval/best", 1 / (1 + abs(settings["ridge"] - {best})))
"""


def write_trainer(folder: Path) -> Path:
    """Writes it, gives its file."""
    file = folder / "python"
    file.write_text(_PROGRAM.format(python=sys.executable, best=BEST_RIDGE))
    file.chmod(0o755)
    return file
