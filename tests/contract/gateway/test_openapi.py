"""The API as callers know it. A change of it shows here first: is it additive, and is it in the changelog?

To accept a change: `SHORTLIST_ACCEPT_SNAPSHOT=1 pytest tests/contract/gateway/test_openapi.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.builders.gateway import make_app

SNAPSHOT = Path(__file__).with_name("openapi.json")


def test_the_api_is_what_the_snapshot_says(tmp_path: Path) -> None:
    document = make_app(tmp_path).openapi()
    if os.environ.get("SHORTLIST_ACCEPT_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    assert document == json.loads(SNAPSHOT.read_text())


def test_errors_are_documented_as_problem_documents(tmp_path: Path) -> None:
    paths = make_app(tmp_path).openapi()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if path.startswith("/v1") and int(status) >= 400:
                    assert set(response["content"]) == {"application/problem+json"}, (path, status)
