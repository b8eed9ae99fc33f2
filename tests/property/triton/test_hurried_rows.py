"""Whoever has no time for the ranker goes ahead without it; the others get what they get without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.slates import Degradation, degradations
from contract.tensors import NO_DEADLINE
from ensemble.run.pace import Pace
from ensemble.run.recommender import Recommender
from tests.builders.triton import NOW, World, make_recommender, make_request, slate
from tests.property.triton.test_batches import assert_equal_answers

ROW_S = 0.010
"""What ranking one user takes here."""
EDGE_S = 1e-6
"""Deadlines are whole microseconds: on the edge itself either is right."""
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class SetPace(Pace):
    """Expects the same of every row, whatever it is told."""

    def note(self, rows: int, seconds: float) -> None:
        del rows, seconds

    def of(self, rows: int) -> float:
        return rows * ROW_S


@pytest.fixture
def recommender(world: World) -> Recommender:
    """Gives a chain that expects its ranker to take 10 ms a user, and whose clock stands still."""
    recommender = make_recommender(world)
    recommender.line.pace = SetPace()
    return recommender


def left(seconds: float) -> int:
    """Gives the deadline that is so many seconds from now."""
    return int((NOW.timestamp() + seconds) * 1e6)


def is_ranked(answer: Any) -> bool:
    return Degradation.SCORE_CANDIDATES not in degradations(int(answer["degraded"][0, 0]))


def test_each_is_ranked_or_not_and_gets_what_it_gets_alone(world: World) -> None:
    plain = make_recommender(world)

    @SETTINGS
    @given(
        users=st.lists(
            st.tuples(st.integers(98, 122), st.integers(1, 120), st.sampled_from([0.0, 0.5, 1.0])),
            min_size=1,
            max_size=9,
        )
    )
    def check(users: list[tuple[int, int, float]]) -> None:
        recommender = make_recommender(world)
        recommender.line.pace = SetPace()
        requests = [
            make_request(user, n=7, quality=quality, deadline_us=left(ms / 1000))
            for user, ms, quality in users
        ]
        ahead: list[int] = []
        answers: list[Any] = recommender.answer(requests, at_once=lambda place, _: ahead.append(place))
        for (user, ms, quality), answer in zip(users, answers, strict=True):
            expected: Any = plain.answer([make_request(user, n=7, quality=quality)])[0]
            spare_s = ms / 1000 - recommender.line.finish_s
            if quality > 0 and spare_s >= len(users) * ROW_S + EDGE_S:
                assert is_ranked(answer)
            if quality > 0 and spare_s <= ROW_S - EDGE_S:
                assert not is_ranked(answer)
            if is_ranked(answer) or quality == 0:
                assert_equal_answers(answer, expected)
            np.testing.assert_array_equal(answer["candidate_ids"], expected["candidate_ids"])
        assert len(set(ahead)) == len(ahead) < len(users)

    check()


def test_the_hurried_are_answered_before_the_ranker_runs_on_the_others(recommender: Recommender) -> None:
    events: list[str] = []
    score = recommender.line.stages[recommender.line.scoring]
    rank = score.ranker.run

    def ranking(inputs: Any) -> Any:
        events.append("ranked")
        return rank(inputs)

    score.ranker.run = ranking
    answers = recommender.answer(
        [make_request(101, deadline_us=left(0.012)), make_request(102, deadline_us=NO_DEADLINE)],
        at_once=lambda place, _: events.append(f"answered {place}"),
    )
    assert events == ["answered 0", "ranked"]
    assert [is_ranked(answer) for answer in answers] == [False, True]
    assert len(slate(answers[0])) == 5


def test_where_everyone_is_hurried_nobody_is_ranked_and_nobody_goes_ahead(recommender: Recommender) -> None:
    ahead: list[int] = []
    requests = [make_request(user, deadline_us=left(0.012)) for user in (101, 102, 103)]
    answers = recommender.answer(requests, at_once=lambda place, _: ahead.append(place))
    assert not any(is_ranked(answer) for answer in answers)
    assert ahead == []


def test_a_smaller_group_that_has_time_is_ranked_first(recommender: Recommender) -> None:
    ahead: list[int] = []
    requests = [make_request(user, deadline_us=left(1)) for user in range(101, 105)]
    requests.append(make_request(105, deadline_us=left(0.020)))
    answers = recommender.answer(requests, at_once=lambda place, _: ahead.append(place))
    assert ahead == [4]
    assert all(is_ranked(answer) for answer in answers)


def test_a_minority_of_a_requests_users_does_not_keep_the_ranker_from_the_others(
    recommender: Recommender,
) -> None:
    rows = [make_request(user, deadline_us=left(1)) for user in (101, 102, 103)]
    rows.append(make_request(104, deadline_us=left(0.012)))
    together = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    (answer,) = recommender.answer([together])
    assert all(is_ranked({"degraded": answer["degraded"][row:]}) for row in range(3))  # type: ignore[index]


def test_a_request_of_several_users_is_hurried_as_a_whole(recommender: Recommender) -> None:
    rows = [make_request(101, deadline_us=left(0.012)), make_request(102, deadline_us=left(1))]
    together = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    ahead: list[int] = []
    pair, other = recommender.answer(
        [together, make_request(103, deadline_us=left(1))], at_once=lambda place, _: ahead.append(place)
    )
    assert ahead == [0]
    assert pair["item_ids"].shape[0] == 2  # type: ignore[index]
    assert is_ranked(other)


def test_what_the_scoring_takes_is_learnt_from_those_who_were_ranked(world: World) -> None:
    recommender = make_recommender(world)
    recommender.answer([make_request(101, quality=0)])
    assert recommender.line.pace.of(1) == 0
    recommender.answer([make_request(101), make_request(102)])
    assert recommender.line.pace.of(1) > 0
