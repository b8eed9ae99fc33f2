"""Candidates as the ranker scored them: in Triton, and where it was trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.builders.world import World

OFFLINE = "import sys, tests.builders.offline_ranker as it; it.write_scores(*sys.argv[1:])"


@dataclass(frozen=True)
class Ranked:
    """A user's answer that was explained, its candidates, and what the trained network says of each."""

    answer: dict[str, Any]
    candidates: list[dict[str, Any]]
    offline: list[float]

    @property
    def scores(self) -> list[float]:
        """The ranker's scores of the candidates, as the servers tell them; None where it was not run."""
        return [item["ranking_score"] for item in self.candidates]

    @property
    def of_slate(self) -> list[float]:
        """The ranker's scores of the slate, in its order."""
        by_id = {item["item_id"]: item["ranking_score"] for item in self.candidates}
        return [by_id[item["item_id"]] for item in self.answer["items"]]


def is_ranked(world: World) -> bool:
    """Whether the gateway says that the bundle's ranker is run."""
    bundle = httpx.get(f"{world.url}/v1/bundle", timeout=10.0, trust_env=False).json()
    return bool(bundle["is_ranked"])


def ranked(world: World, users: Sequence[int | str]) -> list[Ranked]:
    """Asks for users, and scores what they were given with the network of the same training."""
    answers = [world.recommend(user, n=5, explain=True) for user in users]
    candidates = [
        [item for item in answer["explain"]["items"] if item["removed_by"] is None] for answer in answers
    ]
    asked = [
        (user, [item["item_id"] for item in of_user]) for user, of_user in zip(users, candidates, strict=True)
    ]
    done = world.run("training", "-c", OFFLINE, str(world.settings.bundle.resolve()), json.dumps(asked))
    assert done.returncode == 0, done.stderr
    offline = json.loads(done.stdout.splitlines()[-1])
    return [Ranked(*one) for one in zip(answers, candidates, offline, strict=True)]
