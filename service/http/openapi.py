"""The API's description, made exact: what this bundle and these settings accept, and how refusals look."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fastapi import FastAPI

from contract.affinity import LISTS
from contract.bundle import Manifest
from contract.dataset import Dataset
from contract.filters import element, filter_schema
from contract.ids import FIRST, LAST, MAX_LENGTH, IdDtype
from contract.items import row_schema
from contract.names import ITEM_ID
from contract.user_features import FLOAT32_MAX
from service.failures import DependencyUnavailable
from service.http.layers import GUARDED
from service.http.problems import PROBLEM_TYPE
from service.schemas import INT64_MAX
from service.settings import Settings
from service.variant import Variant

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KEY = "key"
SINGLE = ("RecommendRequest", "SimilarRequest")
"""What asks for one slate."""
_VALUES: dict[str, dict[str, Any]] = {
    "int64": {"type": "integer", "minimum": -INT64_MAX, "maximum": INT64_MAX},
    "float32": {"type": "number", "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX},
    "string": {"type": "string", "minLength": 1},
    "bool": {"type": "boolean"},
}
_HEADERS = {
    "401": {"www-authenticate": "How to say who asks."},
    "415": {"accept": "What a body may be."},
    "429": {"retry-after": "Seconds until another try is worth while."},
    "503": {"retry-after": "Seconds until another try is worth while."},
}
_HEADERS_OF_STATUS = {
    status: {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    for status, headers in _HEADERS.items()
}


def describe(app: FastAPI, served: Callable[[], Variant], settings: Settings) -> None:
    """Completes what FastAPI writes under /openapi.json, of the bundle that is `served` then; drawn at the
    first request for it."""
    generate = app.openapi
    described = ""

    def openapi() -> dict[str, Any]:
        nonlocal described
        manifest = served().manifest
        if described != manifest.bundle:
            app.openapi_schema = None
        document = generate()
        if described != manifest.bundle:
            _describe_refusals(document, has_keys=bool(settings.api_keys))
            _describe_request(document, manifest, settings)
            _describe_ids(document, manifest)
            _describe_events(document, manifest)
            with suppress(DependencyUnavailable):  # its data set cannot be read: who puts items is told so
                _describe_items(document, served().dataset)
            _make_exact(document["components"])
            _make_exact(document["paths"])
            described = manifest.bundle
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_refusals(document: dict[str, Any], has_keys: bool) -> None:
    document["components"]["securitySchemes"] = {
        _KEY: {
            "type": "http",
            "scheme": "bearer",
            "description": "Made by `python -m service.api_keys NAME`. A gateway without keys asks for none.",
        }
    }
    for path, operations in document["paths"].items():
        is_guarded = path.startswith(GUARDED)
        for operation in operations.values():
            if is_guarded:
                operation["security"] = [{_KEY: []}] if has_keys else [{}, {_KEY: []}]
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if "Problem" in str(content.get("application/json", "")):
                    content[PROBLEM_TYPE] = content.pop("application/json")
                    if status in _HEADERS_OF_STATUS:
                        response["headers"] = _HEADERS_OF_STATUS[status]


def _describe_request(document: dict[str, Any], manifest: Manifest, settings: Settings) -> None:
    """Names the context, the filters and the features of the bundle; another name is refused."""
    schemas = document["components"]["schemas"]
    recommend = schemas["RecommendRequest"]
    context, features = recommend["properties"]["context"], recommend["properties"]["user_features"]
    context["properties"] = {name: context["additionalProperties"] for name in manifest.context}
    features["properties"] = {name: _feature(dtype) for name, dtype in manifest.user_features.items()}
    bounded = [context, features]
    for model in [schemas[name] for name in SINGLE]:
        filters = model["properties"]["filters"]
        filters["properties"] = {name: filter_schema(dtype) for name, dtype in manifest.filters.items()}
        bounded.append(filters)
        for budget in model["properties"]["latency_budget_ms"]["anyOf"]:
            if budget["type"] == "integer":
                budget["minimum"], budget["maximum"] = settings.reserve_ms + 1, settings.latency_budget_ms
    columns = {name: filter_schema(dtype) for name, dtype in manifest.filters.items()}
    for field in (
        schemas["Boost"]["properties"]["filters"],
        *schemas["Share"]["properties"]["filters"]["anyOf"],
    ):
        if field.get("type") == "object":
            field["properties"] = columns
            bounded.append(field)
    schemas["Cap"]["properties"]["column"]["enum"] = sorted(manifest.filters)
    for field in bounded:
        field["additionalProperties"] = False
        field.pop("propertyNames", None)
        field.pop("maxProperties", None)


def _feature(dtype: str) -> dict[str, Any]:
    """What a feature of a user may be in JSON, by its dtype."""
    value = dict(_VALUES[element(dtype)])
    schema = value if element(dtype) == dtype else {"type": "array", "items": value}
    return {"anyOf": [schema, {"type": "null"}]}


def _describe_ids(document: dict[str, Any], manifest: Manifest) -> None:
    """Says of every id what this bundle's are: numbers, or text."""
    user, item = _id_of(manifest.user_id_dtype), _id_of(manifest.item_id_dtype)
    schemas = document["components"]["schemas"]
    for name in ("SeenResponse", "UserResponse"):
        _become(schemas[name]["properties"]["user_id"], user)
    _become(schemas["UserResponse"]["properties"]["seen"]["items"], item)
    for name in SINGLE:
        _become(schemas[name]["properties"]["user_id"], user)
        del schemas[name]["properties"]["user_id"]["default"]
    schemas["RecommendRequest"]["anyOf"] = [
        {"required": ["user_id"]},
        {"required": ["user_features"], "properties": {"user_features": {"minProperties": 1}}},
    ]
    for name in ("RecommendResponse", "SimilarResponse"):
        _become(schemas[name]["properties"]["user_id"], {"anyOf": [user, {"type": "null"}]})
    for name in ("SimilarRequest", "SimilarResponse"):
        _become(schemas[name]["properties"]["item_id"], item)
    for name in LISTS & schemas["RecommendRequest"]["properties"]["user_features"]["properties"].keys():
        column = schemas["RecommendRequest"]["properties"]["user_features"]["properties"][name]
        column["anyOf"][0]["items"] = item
    for name in ("Item", "SimilarItem", "ExplainedItem", "Move", "Pin"):
        _become(schemas[name]["properties"]["item_id"], item)
    for name in SINGLE:
        _become(schemas[name]["properties"]["exclude_item_ids"]["items"], item)
    _become(schemas["BundleResponse"]["properties"]["sample_user_ids"]["items"], user)
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in ("user_id", "item_id"):
                    _become(parameter["schema"], user if parameter["name"] == "user_id" else item)
    of_many = [one for example in schemas["ManyRequest"].get("examples", ()) for one in example["requests"]]
    alone = [one for name in SINGLE for one in schemas[name].get("examples", ())]
    for example in [*alone, *of_many]:
        if "user_id" in example:
            example["user_id"] = next(iter(manifest.sample_user_ids), example["user_id"])
        if manifest.item_id_dtype == "string":
            example |= {field: "an item" for field in ("item_id",) if field in example}
            example.pop("exclude_item_ids", None)


def _describe_events(document: dict[str, Any], manifest: Manifest) -> None:
    """Names the labels, the types and the context that an event may have; another name is refused."""
    event = document["components"]["schemas"]["EventBody"]
    fields = event["properties"]
    _become(fields["user_id"], _id_of(manifest.user_id_dtype))
    _become(fields["item_id"], _id_of(manifest.item_id_dtype))
    context = fields["context"]
    context["properties"] = dict.fromkeys(manifest.context, context["additionalProperties"])
    context["additionalProperties"] = False
    fields["type"]["anyOf"][0] = {"type": "string", "enum": [*manifest.event_types]}
    label = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 1}, {"type": "null"}]}
    fields |= dict.fromkeys(manifest.labels, label)
    event["additionalProperties"] = False
    ways: dict[str, Any] = dict.fromkeys(manifest.labels, label["anyOf"][0])
    if manifest.event_types:
        ways["type"] = {"type": "string"}
    says_something = [{"required": [name], "properties": {name: schema}} for name, schema in ways.items()]
    if says_something:
        event["anyOf"] = says_something
    else:
        event["not"] = {}  # a data set without labels takes no event


def _describe_items(document: dict[str, Any], dataset: Dataset) -> None:
    """Names the columns that an item may have; another name is refused."""
    item = document["components"]["schemas"]["ItemsRequest"]["properties"]["items"]["items"]
    item["properties"] = {ITEM_ID: _id_of(dataset.item_id_dtype)} | row_schema(dataset)
    item["required"] = [ITEM_ID]
    item["additionalProperties"] = False
    for name in ("propertyNames", "maxProperties"):
        item.pop(name, None)


def _id_of(dtype: IdDtype) -> dict[str, Any]:
    if dtype == "string":
        return {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH}
    return {"type": "integer", "minimum": FIRST, "maximum": LAST}


def _become(schema: dict[str, Any], kind: dict[str, Any]) -> None:
    """Gives a schema another type; title and description stay."""
    for name in ("type", "anyOf", *_BOUNDS, "minLength", "maxLength"):
        schema.pop(name, None)
    schema |= kind


def _make_exact(node: Any) -> None:
    """Writes bounds as integers: the greatest int64, as FastAPI's float, would be one too many."""
    if isinstance(node, list):
        for one in node:
            _make_exact(one)
    if isinstance(node, dict):
        for name, value in node.items():
            if name in _BOUNDS and isinstance(value, float) and value.is_integer():
                node[name] = INT64_MAX if value == INT64_MAX + 1 else int(value)
            else:
                _make_exact(value)
