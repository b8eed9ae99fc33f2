"""Asks the gateway and prints its answers for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from contract.bundle import Manifest, read_manifest
from contract.ids import IdDtype, OwnId
from deploy.local.settings import LocalSettings

UNKNOWN_USER: dict[IdDtype, OwnId] = {"int64": 2**53 - 1, "string": "nobody-9f4b2c"}
"""By the dtype of ids, a user whom no data set has."""
WARM_UP = 20


def ask(client: httpx.Client, user_id: OwnId, n: int = 5) -> dict[str, Any]:
    """Asks for the best `n` items for a user."""
    answer = client.post("/v1/recommendations", json={"user_id": user_id, "n": n})
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def known_users(manifest: Manifest, count: int) -> list[OwnId]:
    """Gives the first of a bundle's sample users."""
    return list(manifest.sample_user_ids[:count])


def show(console: Console, answer: Mapping[str, Any], title: str) -> None:
    """Prints one slate: rank, item, its display fields, score; below, who made it and the stages' times."""
    fields = [name for item in answer["items"] for name in item if name not in ("item_id", "score")]
    columns = list(dict.fromkeys(fields))
    degraded = ", ".join(answer["degraded"])
    times = [f"{stage} {ms:.1f}" for stage, ms in answer["timings_ms"].items()]
    table = Table(title=title, title_justify="left")
    table.add_column("", justify="right")
    table.add_column("item_id", justify="right")
    for name in columns:
        table.add_column(name.removeprefix("item_"), overflow="fold")
    table.add_column("score", justify="right")
    for rank, item in enumerate(answer["items"], start=1):
        shown = [str(item.get(name) or "") for name in columns]
        table.add_row(str(rank), str(item["item_id"]), *shown, f"{item['score']:.4f}")
    console.print(table)
    console.print(f"source {answer['source']}" + (f", degraded: {degraded}" if degraded else ""))
    console.print(f"milliseconds: {', '.join(times)}\n")


def show_answers(console: Console, settings: LocalSettings) -> None:
    """Asks for two known users and an unknown one, after a few requests that warm the servers up."""
    manifest = read_manifest(settings.bundle, verify=False)
    users, unknown = known_users(manifest, 2), UNKNOWN_USER[manifest.user_id_dtype]
    with httpx.Client(
        base_url=settings.gateway_url, headers=settings.headers, timeout=10.0, trust_env=False
    ) as client:
        for turn in range(WARM_UP):
            ask(client, users[turn % len(users)])
        for user in users:
            show(console, ask(client, user), f"user {user}")
        show(console, ask(client, unknown), f"user {unknown}, whom nobody has seen")
