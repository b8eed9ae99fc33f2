"""Whichever rows are late, at whatever stage: the others get what they get without them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.errors import ErrorCode, StageError
from contract.slates import Degradation, degradations
from contract.tensors import NO_DEADLINE, PAD_ID, StageName, bundle_id
from ensemble.run.recommender import Recommender
from tests.builders.stepping import make_it_step
from tests.builders.triton import World, make_recommender, make_request
from tests.property.triton.test_batches import assert_equal_answers, assert_packed

STAGES = list(StageName)
IN_TIME = len(STAGES)
LATE_AT = st.integers(0, IN_TIME)
"""Before which stage a row's deadline has passed; `IN_TIME` for none."""
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def deadline_us(late_at: int) -> int:
    return NO_DEADLINE if late_at == IN_TIME else late_at * 1_000_000


def stacked(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def stepping(world: World) -> Recommender:
    recommender = make_recommender(world)
    make_it_step(recommender)
    return recommender


def test_late_requests_do_not_touch_the_others(world: World) -> None:
    plain = make_recommender(world)

    @SETTINGS
    @given(users=st.lists(st.tuples(st.integers(98, 122), LATE_AT), min_size=1, max_size=8))
    def check(users: list[tuple[int, int]]) -> None:
        requests = [make_request(user, n=7, deadline_us=deadline_us(at)) for user, at in users]
        answers = stepping(world).answer(requests)
        for (user, late_at), answer in zip(users, answers, strict=True):
            if late_at == IN_TIME:
                assert_equal_answers(answer, plain.answer([make_request(user, n=7)])[0])
            else:
                assert isinstance(answer, StageError)
                assert (answer.code, answer.stage) == (ErrorCode.DEPENDENCY, STAGES[late_at])
                assert "deadline passed" in answer.message

    check()


def test_late_users_of_a_request_do_not_touch_its_other_users(world: World) -> None:
    plain = make_recommender(world)

    @SETTINGS
    @given(
        groups=st.lists(
            st.lists(st.tuples(st.integers(98, 122), LATE_AT), min_size=1, max_size=4), min_size=1, max_size=4
        )
    )
    def check(groups: list[list[tuple[int, int]]]) -> None:
        requests = [
            stacked([make_request(u, n=7, deadline_us=deadline_us(at)) for u, at in group])
            for group in groups
        ]
        for group, answer in zip(groups, stepping(world).answer(requests), strict=True):
            if all(at < IN_TIME for _, at in group):
                assert isinstance(answer, StageError)
                assert answer.stage == STAGES[max(at for _, at in group)]
                continue
            assert not isinstance(answer, StageError)
            assert_packed(answer)
            for row, (user, at) in enumerate(group):
                its_row = {name: answer[name][row : row + 1] for name in answer}
                if at == IN_TIME:
                    assert_equal_answers(its_row, plain.answer([make_request(user, n=7)])[0])
                else:
                    assert degradations(int(its_row["degraded"][0, 0])) == [Degradation.LATE]
                    assert (its_row["item_ids"] == PAD_ID).all()
                    assert its_row["bundle_id"] == bundle_id("tiny-1")
                    assert np.isneginf(its_row["item_scores"]).all()

    check()


def test_a_late_row_is_not_given_to_a_later_stage(world: World) -> None:
    @SETTINGS
    @given(users=st.lists(st.tuples(st.integers(98, 122), LATE_AT), min_size=1, max_size=8))
    def check(users: list[tuple[int, int]]) -> None:
        recommender = make_recommender(world)
        _, stages = make_it_step(recommender)
        recommender.answer([make_request(user, deadline_us=deadline_us(at)) for user, at in users])
        for place, stage in enumerate(stages):
            assert sum(stage.rows) == sum(at > place for _, at in users)

    check()
