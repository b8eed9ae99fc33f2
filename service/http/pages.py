"""The pages for people. Plain files: no build step, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Response

router = APIRouter(include_in_schema=False)


class Page:
    """An HTML file and the policy that lets only its own style and scripts run."""

    def __init__(self, name: str) -> None:
        self.html = (Path(__file__).parent / name).read_text(encoding="utf-8")
        self.headers = {
            "content-security-policy": "; ".join(
                [
                    "default-src 'none'",
                    f"script-src {_hashes(self.html, 'script')}",
                    f"style-src {_hashes(self.html, 'style')}",
                    *("connect-src 'self'", "img-src data:", "base-uri 'none'"),
                    *("form-action 'none'", "frame-ancestors 'none'"),
                ]
            ),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }

    def response(self) -> Response:
        """The page."""
        return Response(self.html, media_type="text/html; charset=utf-8", headers=self.headers)


def _hashes(html: str, tag: str) -> str:
    """The sha256 of every inline block of this tag, as Content-Security-Policy writes them."""
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


_HOME = Page("page.html")
_DOCS = Page("docs.html")


@router.get("/")
async def home() -> Response:
    """Pick a user, and see the answer stage by stage."""
    return _HOME.response()


@router.get("/docs")
async def docs() -> Response:
    """The API's documentation, drawn from /openapi.json."""
    return _DOCS.response()
