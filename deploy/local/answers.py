"""Asks the gateway and prints its answers for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deploy.local.settings import LocalSettings

UNKNOWN_USER = 2**53 - 1
"""No data set has this user."""
WARM_UP = 20


def ask(client: httpx.Client, user_id: int, n: int = 5) -> dict[str, Any]:
    """Asks for the best `n` items for a user."""
    answer = client.post("/v1/recommendations", json={"user_id": user_id, "n": n})
    answer.raise_for_status()
    told: dict[str, Any] = answer.json()
    return told


def known_users(bundle: Path, count: int) -> list[int]:
    """Takes the bundle's folder, gives the first of its sample users."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    return [int(user) for user in manifest["sample_user_ids"][:count]]


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
    users = known_users(settings.bundle, 2)
    with httpx.Client(
        base_url=settings.gateway_url, headers=settings.headers, timeout=10.0, trust_env=False
    ) as client:
        for turn in range(WARM_UP):
            ask(client, users[turn % len(users)])
        for user in users:
            show(console, ask(client, user), f"user {user}")
        show(console, ask(client, UNKNOWN_USER), f"user {UNKNOWN_USER}, whom nobody has seen")
