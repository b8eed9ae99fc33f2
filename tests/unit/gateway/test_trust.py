"""The gateway reads no pickle, from the first import to the answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SERVE = """
import pickle, sys
def tripwire(*_, **__):
    raise SystemExit("a pickle was read")
def on_event(event, arguments):
    if event == "pickle.find_class":
        tripwire()
class Unpickler(pickle.Unpickler):
    load = tripwire
sys.addaudithook(on_event)
pickle.load = pickle.loads = pickle._load = pickle._loads = pickle._Unpickler.load = tripwire
pickle.Unpickler = Unpickler
import asyncio
from pathlib import Path
from tests.builders.gateway import ask, make_app
if sys.argv[2] == "harmed":
    import _pickle
    _pickle.loads(_pickle.dumps(make_app))
print(asyncio.run(ask(make_app(Path(sys.argv[1])), user_id=7)).status_code)
"""


@pytest.mark.parametrize("state", ["sound", "harmed"])
def test_no_pickle_is_read_from_the_first_import_to_the_answer(tmp_path: Path, state: str) -> None:
    """The tripwires stand before the first import; `harmed` reads one pickle, to show that they trip."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path), state],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if state == "sound":
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["200"]), done.stderr
    else:
        assert done.returncode == 1
        assert "a pickle was read" in done.stderr
