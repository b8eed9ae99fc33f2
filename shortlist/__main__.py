"""`python -m shortlist recommend --user 7`: asks a gateway from the command line.

The gateway is that of `--url`, else of SHORTLIST_URL; a key is read from SHORTLIST_API_KEY, as what is typed
on a command line is seen by everyone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from shortlist.answers import Answer, Id, Trace
from shortlist.calls import Asked
from shortlist.client import TIMEOUT_S, Client
from shortlist.errors import ShortlistError

URL = "http://127.0.0.1:8080"


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks, prints the answer; 0 where there was one, 1 where there was none, 2 where it was not asked."""
    options = _parser().parse_args(arguments)
    key = os.environ.get("SHORTLIST_API_KEY")
    try:
        with Client(options.url, api_key=key, timeout_s=options.timeout) as client:
            print("\n".join(options.ask(client, options)))
    except ShortlistError as error:
        print(f"{type(error).__name__}: {error} (request {error.request_id})", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _recommend(client: Client, options: argparse.Namespace) -> list[str]:
    answer = client.recommend(options.user, **_asked(options))
    return [_json(answer.document)] if options.json else _lines(answer)


def _similar(client: Client, options: argparse.Namespace) -> list[str]:
    answer = client.similar(options.item, user_id=options.user, **_asked(options))
    return [_json(answer.document)] if options.json else _lines(answer)


def _seen(client: Client, options: argparse.Namespace) -> list[str]:
    history = client.seen(options.user, options.n)
    lines = [f"{history.total} seen by user {history.user_id}, newest first"]
    return lines + ["  ".join(map(str, item.values())) for item in history.items]


def _bundle(client: Client, options: argparse.Namespace) -> list[str]:
    del options
    return [_json(client.bundle().document)]


def _asked(options: argparse.Namespace) -> Asked:
    request: Asked = {"n": options.n}
    if options.exclude:
        request["exclude_item_ids"] = options.exclude
    if options.filters:
        request["filters"] = options.filters
    if options.rules:
        request["rules"] = options.rules
    if options.explain:
        request["explain"] = True
    return request


def _lines(answer: Answer) -> list[str]:
    """Lists the items, one a line, and below them who made the slate and what it lacks."""
    lines = [
        "  ".join(
            [f"{rank:>3}", f"{item.item_id!s:>10}", f"{item.score:9.4f}", *map(str, item.fields.values())]
        )
        for rank, item in enumerate(answer.items, 1)
    ]
    total_ms = answer.timings_ms.get("total", 0.0)
    made = f"{answer.source}, bundle {answer.bundle}, {total_ms:.1f} ms, request {answer.request_id}"
    lacks = [f"lacks: {', '.join(answer.degraded)}"] if answer.degraded else []
    if answer.explain is None:
        return [*lines, made, *lacks]
    traces = [
        f"{trace.retrieval_rank:>3}  {trace.item_id!s:>10}  {trace.retrieval_score:9.4f}  "
        f"{trace.removed_by or trace.slate_rank or '-'}  {_sources(trace)}"
        for trace in answer.explain
    ]
    heading = "retrieved, its score, why it went or where it stands, and its rank in each source:"
    return [*lines, made, *lacks, heading, *traces]


def _sources(trace: Trace) -> str:
    return " ".join(f"{one.source} {one.rank}" for one in trace.found_by if one.rank is not None)


def _id(text: str) -> Id:
    """Reads an id: a number where it is written as one, else a text; a number in quotes is a text as well."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    return int(text) if text.removeprefix("-").isdecimal() and text.isascii() else text


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} must be a JSON object, such as '{{\"column\": [1]}}'")
    return value


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shortlist", description="Asks a Shortlist gateway.")
    url = os.environ.get("SHORTLIST_URL", URL)
    parser.add_argument("--url", default=url, help=f"the gateway's address, default {url}")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, help="seconds in all, default %(default)s"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    recommend = commands.add_parser("recommend", help="the best items for a user")
    recommend.set_defaults(ask=_recommend)
    recommend.add_argument("--user", type=_id, required=True, help="the user's id; '\"7\"' is the text 7")
    _slate_arguments(recommend)
    similar = commands.add_parser("similar", help="the items most like another")
    similar.set_defaults(ask=_similar)
    similar.add_argument("--item", type=_id, required=True, help="the item's id")
    similar.add_argument("--user", type=_id, help="whose seen items are left out")
    _slate_arguments(similar)
    seen = commands.add_parser("seen", help="what a user has seen")
    seen.set_defaults(ask=_seen)
    seen.add_argument("--user", type=_id, required=True, help="the user's id")
    seen.add_argument("-n", type=int, default=20, help="items wanted, default %(default)s")
    commands.add_parser("bundle", help="what is served").set_defaults(ask=_bundle)
    return parser


def _slate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=int, default=10, help="items wanted, default %(default)s")
    parser.add_argument("--exclude", type=_id, nargs="+", metavar="ITEM", help="items that must not be there")
    parser.add_argument("--filters", type=_object, metavar="JSON", help="column to allowed values, as JSON")
    parser.add_argument("--rules", type=_object, metavar="JSON", help="boosts, pins, caps and so on, as JSON")
    parser.add_argument(
        "--explain", action="store_true", help="say what was retrieved, and what became of it"
    )
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")


if __name__ == "__main__":
    sys.exit(main())
