"""The gateway reads no pickle, from the first import to the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.pickles import MESSAGE, watched

IMPORTS = """
import asyncio
from tests.builders.gateway import ask, make_app
"""
SERVING = "print(asyncio.run(ask(make_app(folder), user_id=7)).status_code)"


@pytest.mark.parametrize("state", ["sound", "harmed"])
def test_no_pickle_is_read_from_the_first_import_to_the_answer(tmp_path: Path, state: str) -> None:
    done = watched(IMPORTS, SERVING, tmp_path, is_harmed=state == "harmed")
    if state == "sound":
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["200"]), done.stderr
    else:
        assert done.returncode == 1
        assert MESSAGE in done.stderr
