"""Settings: documented, checked, and wrong in one line."""

from __future__ import annotations

import pytest

from contract.rules.order_rules import Cap
from ensemble.settings import EnsembleSettings, load_settings


def test_every_field_is_described() -> None:
    assert [n for n, field in EnsembleSettings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SHORTLIST_K", "none", "SHORTLIST_K=none"),
        ("SHORTLIST_PROVIDER", "gpu", "SHORTLIST_PROVIDER=gpu"),
        ("SHORTLIST_REDIS_URL", "localhost", "SHORTLIST_REDIS_URL: must be redis://"),
        ("SHORTLIST_ORDER__CAPS", "2 of 5", 'field "order"'),
        ("SHORTLIST_ORDER__CAPS", '[{"column": "a", "most": 2}]', "SHORTLIST_ORDER__CAPS__0__WINDOW"),
        ("SHORTLIST_ORDER__DIVERSITY", "much", "SHORTLIST_ORDER__DIVERSITY"),
        ("SHORTLIST_MAX_OVERFETCH", "5000", "max_seen must be at least max_overfetch"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load_settings()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_rules_of_the_order_are_read_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_ORDER__CAPS", '[{"column": "item_category", "most": 2, "window": 5}]')
    monkeypatch.setenv("SHORTLIST_ORDER__DIVERSITY", "0.25")
    order = load_settings().order
    assert order.caps == (Cap(column="item_category", most=2, window=5),)
    assert order.diversity == 0.25
