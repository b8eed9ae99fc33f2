"""The real servers read no pickle: any unpickling in Triton's Python process or the gateway is heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.world import World

LISTENER = """
import sys
from pathlib import Path
command = Path("/proc/self/cmdline").read_text().replace("\\0", " ")
def note(what):
    with open({path!r}, "a") as heard:
        heard.write(f"{{what}} {{command}}\\n")
def on_event(event, arguments):
    if event == "pickle.find_class":
        note("unpickled")
sys.addaudithook(on_event)
note("listening")
"""
SERVERS = ("triton_python_backend_stub", "service.main")
FUTURE = "from __future__ import annotations\n"


def test_the_servers_read_no_pickle_from_their_start_to_an_answer(
    own_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tmp_path / "heard"
    listener = LISTENER.format(path=str(heard))
    (tmp_path / "sitecustomize.py").write_text(listener)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model = (
        own_world.var / "models" / own_world.manifest()["bundle"] / "1" / "model.py"
    )  # Triton's process has no sitecustomize
    before, future, after = model.read_text().partition(FUTURE)
    model.write_text(before + future + listener + after)
    own_world.up()
    user_id = own_world.manifest()["sample_user_ids"][0]
    assert own_world.recommend(user_id, explain=True)["source"] == "ensemble"
    lines = heard.read_text().splitlines()
    for server in SERVERS:
        events = {line.split()[0] for line in lines if server in line}
        assert events == {"listening"}, server
