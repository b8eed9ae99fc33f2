"""Settings: what they default to, and how a wrong one is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.settings import Settings, WrongSettings, load_settings

NESTED = ("triton", "order", "events")
"""Settings whose parts are variables of their own."""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SHORTLIST_"):
            monkeypatch.delenv(name)


def test_defaults_listen_on_loopback_and_keep_a_reserve() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.triton.address == "127.0.0.1:8001"
    assert settings.reserve_ms < settings.latency_budget_ms


def test_nested_settings_use_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_TRITON__ADDRESS", "triton:9001")
    monkeypatch.setenv("SHORTLIST_TRITON_HTTP_PORT", "1")  # another role's
    assert load_settings().triton.address == "triton:9001"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "eighty", "SHORTLIST_PORT: "),
        ("PORT", "70000", "less than or equal to 65535"),
        ("REDIS_URL", "localhost", "SHORTLIST_REDIS_URL: must be redis://"),
        ("REDIS_URL", "redis://localhost:99999", "SHORTLIST_REDIS_URL: must be redis://"),
        ("TRITON__ADDRESS", "localhost", "SHORTLIST_TRITON__ADDRESS: must be host:port"),
        ("TRITON__ADDRESS", "localhost:99999", "must be host:port"),
        ("TRITON__MAX_IN_FLIGHT", "0", "SHORTLIST_TRITON__MAX_IN_FLIGHT: "),
        ("TRITON__ADRESS", "x:1", "SHORTLIST_TRITON__ADRESS: "),
        ("TRITON", "x:1", "SHORTLIST_TRITON: "),
        ("ORDER__PINS", "12", "SHORTLIST_ORDER__PINS: "),
        ("ORDER__PINS", "12 first", "such as SHORTLIST_ORDER__CAPS='[...]', as JSON"),
        ("RESERVE_MS", "80", "nothing would be left for the ensemble"),
        ("LOG_LEVEL", "loud", "SHORTLIST_LOG_LEVEL: "),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"SHORTLIST_{name}", value)
    with pytest.raises(WrongSettings) as error:
        load_settings()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_several_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_PORT", "x")
    monkeypatch.setenv("SHORTLIST_RESERVE_MS", "-1")
    with pytest.raises(WrongSettings, match=r"SHORTLIST_PORT: .*; SHORTLIST_RESERVE_MS: "):
        load_settings()


def test_every_setting_is_described_and_every_number_says_its_unit_and_which_way_to_move_it() -> None:
    for name, field in _fields(Settings):
        assert field.description, name
        if field.annotation is int and name not in ("port", "max_body_bytes"):
            text = field.description.lower()
            assert "raise" in text, name
            assert "lower" in text or "keep it below" in text, name
        if name.endswith("_ms"):
            assert field.description.startswith("Milliseconds"), name
        if name.endswith("_s"):
            assert field.description.startswith("Seconds"), name


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation)
        else:
            yield name, field


def test_the_api_page_lists_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    rows = {
        cells[1].strip(): cells[2].strip(" `")
        for line in page.splitlines()
        if len(cells := line.split("|")) > 3
    }
    listed = {name.strip("`"): default for name, default in rows.items() if name.startswith("`SHORTLIST_")}
    defaults = {f"SHORTLIST_{name.upper()}": value for name, value in load_settings() if name not in NESTED}
    for outer in NESTED:
        parts = getattr(load_settings(), outer)
        defaults |= {f"SHORTLIST_{outer}__{name}".upper(): value for name, value in parts}
    assert listed == {name: str(value) for name, value in defaults.items()}
