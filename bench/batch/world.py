"""`python -m bench.batch.world`: writes the growth benchmark's world as prepared tables.

The batch job takes its users from them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench.scale.world import make_world
from training.config import load_settings
from training.data.prepared import write_prepared
from training.export.write import write_json


def main() -> int:
    """Draws the world that the bundle was trained on, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    settings, started = load_settings(), time.monotonic()
    world = make_world(chosen.users, chosen.items, settings.seed)
    folder = settings.var_dir / "data" / world.dataset.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    frames = {"users": world.users, "items": world.items, "interactions": world.interactions}
    write_prepared(folder, world.dataset, frames, {})
    facts = {"interactions": len(world.interactions), "seconds": time.monotonic() - started}
    write_json(chosen.report, facts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
