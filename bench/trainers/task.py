"""Makes the task that the trainers are measured on: the data set's own. Runs in the role training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from training.config import load_settings
from training.data.sources.catalog import prepare
from training.data.sources.synthetic import Size
from training.examples.ranking import RankingParts
from training.learn import fit_encoders, retrieval_task

if __name__ == "__main__":
    settings = load_settings()
    size = Size(**settings.synthetic.model_dump())
    prepared = prepare(
        settings.data,
        settings.data_dir,
        settings.var_dir,
        size=size,
        say=lambda line: print(line, file=sys.stderr),
    )
    encoders = fit_encoders(prepared, RankingParts.of(prepared).train)
    task = retrieval_task(prepared, encoders, settings.two_tower, settings.seed)
    task.save(Path(sys.argv[1]))
    sys.stdout.write(json.dumps({"data": prepared.dataset.name, "examples": len(task.examples)}) + "\n")
