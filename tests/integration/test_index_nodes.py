"""An index that moves to several nodes and does without one, through the gateway and a real Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.builders.ports import free_port
from tests.builders.search_redis import running_redis
from tests.builders.world import World, eventually, ids_of


def test_an_index_moves_to_nodes_while_it_serves_and_goes_on_without_one(
    own_world: World, tmp_path: Path
) -> None:
    own_world.up(HEAD_ITEMS="0")  # every user's candidates are searched for
    user = int(own_world.manifest()["sample_user_ids"][1])
    password = own_world.settings.redis.password
    for name in ("stays", "goes"):
        (tmp_path / name).mkdir()
    going: dict[str, Any] = {"port": free_port(), "is_kept": True, "password": password}

    def asked() -> dict[str, Any]:
        answer = own_world.recommend(user, n=10)
        assert answer["source"] == "ensemble"
        return answer

    before = asked()
    assert before["degraded"] == []
    with running_redis(tmp_path / "stays", password=password) as stays:
        with running_redis(tmp_path / "goes", **going) as goes:
            done = own_world.run(
                "triton", "-m", "ensemble.publish.nodes", INDEX_NODES=f"{stays.address},{goes.address}"
            )
            assert done.returncode == 0, done.stderr
            assert eventually(lambda: asked()["degraded"] == [])
            assert ids_of(asked()) == ids_of(before)
        assert eventually(lambda: asked()["degraded"] == ["partial_index"])
        assert len(ids_of(asked())) == 10, "the items of the other node"
        with running_redis(tmp_path / "goes", **going):
            assert eventually(lambda: asked()["degraded"] == [])
            assert ids_of(asked()) == ids_of(before)
