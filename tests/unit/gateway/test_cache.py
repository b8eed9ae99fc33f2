"""What was read lately is kept: bounded, and for a while."""

from __future__ import annotations

from service.store.redis_store import Cache


class Hands:
    """A clock that is set."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_what_was_put_is_found_in_the_order_asked_and_nothing_else() -> None:
    cache = Cache[str](10)
    cache.put({1: "a", 2: "b"})
    assert list(cache.get([2, 3, 1]).items()) == [(2, "b"), (1, "a")]


def test_an_entry_is_gone_when_its_time_is_over_and_putting_it_again_renews_it() -> None:
    clock = Hands()
    cache = Cache[bool](10, seconds=5, clock=clock)
    cache.put({1: True, 2: False})
    clock.now_s += 3
    cache.put({2: True})
    clock.now_s += 1.9
    assert cache.get([1, 2]) == {1: True, 2: True}
    clock.now_s += 0.1
    assert cache.get([1, 2]) == {2: True}
    clock.now_s += 3
    assert cache.get([1, 2]) == {}


def test_beyond_the_bound_those_that_were_put_first_go() -> None:
    cache = Cache[int](3)
    cache.put({1: 1, 2: 2, 3: 3})
    cache.put({1: 10})
    cache.put({4: 4})
    assert cache.get(range(10)) == {1: 10, 3: 3, 4: 4}
    cache.put({item: item for item in range(20, 30)})
    assert cache.get(range(40)) == {27: 27, 28: 28, 29: 29}
