"""Runs a piece of serving in a process of its own that ends as soon as it reads a pickle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.builders.redis_server import ROOT

MESSAGE = "a pickle was read"
_TRIPWIRES = f"""
import pickle, sys
from pathlib import Path
def tripwire(*_, **__):
    raise SystemExit("{MESSAGE}")
def on_event(event, arguments):
    if event == "pickle.find_class":
        tripwire()
class Unpickler(pickle.Unpickler):
    load = tripwire
sys.addaudithook(on_event)
pickle.load = pickle.loads = pickle._load = pickle._loads = pickle._Unpickler.load = tripwire
pickle.Unpickler = Unpickler
folder = Path(sys.argv[1])
"""
_HARM = """
import _pickle
_pickle.loads(_pickle.dumps(Path))
"""


def watched(imports: str, serving: str, folder: Path, *, is_harmed: bool) -> subprocess.CompletedProcess[str]:
    """Runs two pieces of Python one after the other, `folder` at hand; the tripwires stand before the first.

    Where it `is_harmed`, one pickle is read between them, to show that they trip.
    """
    script = f"{_TRIPWIRES}\n{imports}\n{_HARM if is_harmed else ''}\n{serving}"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
