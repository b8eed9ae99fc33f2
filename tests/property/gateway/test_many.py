"""Whatever is asked for several users of a bundle with text ids, they are answered, or it is told what is
wrong."""

from __future__ import annotations

import asyncio
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from hypothesis import event, example, given
from hypothesis import strategies as st

from contract.filters import BOUNDS
from tests.builders.gateway import CATALOGUE, make_text_app, text_of

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
items = texts | st.builds(text_of, st.integers(0, CATALOGUE - 1))
wide = st.integers(-9, 9) | st.integers(2**64, 10**38)


def of_column(values: st.SearchStrategy[Any], bound: st.SearchStrategy[Any] | None = None) -> Any:
    """What may be asked of a column of such values."""
    several = st.lists(values | st.none(), min_size=1, max_size=3)
    parts = {"any": several} | (dict.fromkeys(BOUNDS, bound) if bound is not None else {})
    either = several | st.fixed_dictionaries({}, optional=parts)
    return either | st.fixed_dictionaries({"not": either})


filters = st.fixed_dictionaries(
    {},
    optional={
        "item_genre": of_column(texts),
        "item_year": of_column(st.integers(1900, 2030), st.integers(1900, 2030)),
        "item_price": of_column(wide, wide),
    },
)
one = st.fixed_dictionaries(
    {"user_id": texts, "filters": filters},
    optional={
        "n": st.integers(1, 100),
        "exclude_item_ids": st.lists(items, max_size=5),
        "user_features": st.fixed_dictionaries(
            {},
            optional={
                "user_age": st.none() | st.integers(0, 99),
                "user_rate": wide,
                "user_tags": st.lists(texts, max_size=3),
                "user_recent_item_ids": st.lists(items, max_size=3),
            },
        ),
        "context": st.fixed_dictionaries({}, optional={"context_tab": st.integers(0, 2**63 - 1)}),
        "source": st.sampled_from(["batch", None]),
        "explain": st.booleans(),
        "latency_budget_ms": st.none() | st.integers(501, 10_000),
        "after": st.none(),
    },
)


@given(st.lists(one, min_size=1, max_size=5))
@example([{"user_id": "ä", "filters": {"item_price": {"not": {"lt": 10**30}}}}])
def test_several_wishes_of_any_kind_are_answered_page_after_page_or_told_what_is_wrong(
    several: list[dict[str, Any]],
) -> None:
    first = asyncio.run(asked(several))
    event(f"status {first.status_code}")
    if first.status_code != 200:
        assert first.status_code in {400, 422}, first.text
        return
    answers = first.json()["answers"]
    assert [answer["user_id"] for answer in answers] == [wish["user_id"] for wish in several]
    further = [wish | {"after": answer["next"]} for wish, answer in zip(several, answers, strict=True)]
    second = asyncio.run(asked(further))
    assert second.status_code == 200, second.text
    for page, following in zip(answers, second.json()["answers"], strict=True):
        shown = {item["item_id"] for item in page["items"]}
        assert page["next"] is None or shown.isdisjoint(item["item_id"] for item in following["items"])


@cache
def app() -> FastAPI:
    """The gateway, with a bundle whose ids are text."""
    with tempfile.TemporaryDirectory() as folder:
        return make_text_app(Path(folder))


async def asked(several: list[dict[str, Any]]) -> httpx.Response:
    """One request for several."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app(), raise_app_exceptions=False), base_url="http://gateway"
    ) as client:
        return await client.post("/v1/recommendations/many", json={"requests": several})
