"""The routes by which items come and go, and by which a user is told of or forgotten."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from starlette.convertors import PathConvertor, register_url_convertor
from structlog.contextvars import bind_contextvars

from service.catalogue.intake import CatalogueIntake
from service.catalogue.schemas import Accepted, ItemsRequest, UserResponse
from service.http.documents import DocumentRoute
from service.http.problems import request_id_of
from service.http.routes import UserId, problems

ITEMS = "/v1/items"


class OwnIdConvertor(PathConvertor):
    """An id in a path: with slashes in it, and none at its end, which is one too many."""

    regex = ".*[^/]"


class UserIdConvertor(OwnIdConvertor):
    """A user's id in a path that ends with it: the path of what the user has seen is another route's, so that
    no method which that one lacks is taken for one on a user whose id ends so."""

    regex = f"(?!.*/seen$){OwnIdConvertor.regex}"


register_url_convertor("own_id", OwnIdConvertor())
register_url_convertor("user_id", UserIdConvertor())
router = APIRouter(prefix="/v1", tags=["catalogue"])
ItemId = Annotated[str, Path(description="The item.")]


async def _intake(request: Request) -> CatalogueIntake:
    intake: CatalogueIntake = request.app.state.catalogue
    return intake


IntakeDep = Annotated[CatalogueIntake, Depends(_intake)]


class ItemsRoute(DocumentRoute):
    """Takes items."""

    async def accept(self, document: Any, request: Request) -> Accepted:
        """Puts items. Unlike with events, who waits for Redis' disk counts as load."""
        intake: CatalogueIntake = request.app.state.catalogue
        answer = await intake.put(document, request_id_of(request))
        bind_contextvars(accepted=answer.accepted)
        return answer


async def put_items(body: ItemsRequest) -> Accepted:  # type: ignore[empty-body]
    """Puts items: 1 to 500, new ones and changed ones, with the columns of dataset.yaml.

    202 once they lie in a stream of Redis. Within two seconds or so every bundle that serves retrieves them,
    without a restart or training: an item stands where the bundle's item tower says of its columns, and of
    its id where the bundle knows it; features, filters and card are what was put. They outlive
    materialising, exporting and training anew. A wrong column or value is told by its place and name, and
    refuses all. To put the same again changes nothing.
    """


@router.delete(
    "/items/{item_id:own_id}", status_code=HTTPStatus.ACCEPTED, responses=problems(401, 422, 429, 500, 503)
)
async def take_out_item(item_id: ItemId, request: Request, intake: IntakeDep) -> Accepted:
    """Takes an item out: no slate holds it two seconds later. One that is not there changes nothing."""
    return await intake.take_out(item_id, request_id_of(request))


@router.get("/users/{user_id:user_id}", responses=problems(401, 422, 429, 500, 503))
async def show_user(user_id: UserId, request: Request, intake: IntakeDep) -> UserResponse:
    """All that is held of a user: in Redis, and in the archive of events and of what was shown. Bundles are
    not among it: they may have learned from what the user did."""
    return await intake.show(user_id, request_id_of(request))


@router.delete(
    "/users/{user_id:user_id}", status_code=HTTPStatus.ACCEPTED, responses=problems(401, 422, 429, 500, 503)
)
async def forget_user(user_id: UserId, request: Request, intake: IntakeDep) -> Accepted:
    """Deletes all that is held of a user: features, seen items, stored slates, events and what was shown go
    from Redis at once; from the archive and from what is trained on next with the next preparation, by a
    tombstone, which does not name the user. What the user does afterwards begins anew."""
    return await intake.forget(user_id, request_id_of(request))


def add_catalogue_routes(app: FastAPI) -> None:
    """Adds the routes to the app; behind all others, as a user's id may hold a slash."""
    app.router.add_api_route(
        ITEMS,
        put_items,
        methods=["PUT"],
        status_code=HTTPStatus.ACCEPTED,
        tags=["catalogue"],
        response_model=Accepted,
        responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503),
        route_class_override=ItemsRoute,
    )
    app.include_router(router)
