"""Whatever an id is, its number is one int64 that is safe in a key, and a text comes back from it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import FIRST, LAST, MAX_LENGTH, number_of, number_of_text
from contract.keys import decode_seen, encode_seen, item_card_key, seen_key, slate_key
from contract.slates import StoredSlate
from contract.texts import USERS, Texts

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_LENGTH)
integers = st.integers(FIRST, LAST)


@given(st.lists(texts, unique=True, min_size=1, max_size=50))
def test_any_text_comes_back_from_its_number(owns: list[str]) -> None:
    owns.sort(key=number_of_text)
    numbers = [number_of(own, "string") for own in owns]
    with TemporaryDirectory() as folder:
        Texts.write(Path(folder), USERS, np.array(numbers), owns)
        table = Texts.open(Path(folder), USERS)
    assert [table.of(number) for number in numbers] == owns
    assert all(0 <= number <= LAST for number in numbers)
    assert table.of(-1) is None


@given(texts)
def test_a_key_holds_a_number_and_nothing_of_the_text(own: str) -> None:
    number = number_of(own, "string")
    for key in (seen_key("books", number), slate_key("run", number), item_card_key("b-1", number)):
        assert key.rsplit(":", 1)[1] == str(number)
        assert key.isascii()


@given(st.lists(integers, max_size=20))
def test_integers_of_any_sign_stay_themselves_in_what_redis_holds(owns: list[int]) -> None:
    numbers = [number_of(own, "int64") for own in owns]
    assert numbers == owns
    assert decode_seen(encode_seen(numbers)).tolist() == owns
    slate = StoredSlate(np.array(owns, np.int64), np.zeros(len(owns), np.float32), 0, "b", "r", 0)
    assert StoredSlate.decode(slate.encode()).item_ids.tolist() == owns
