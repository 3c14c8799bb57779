"""Models that can be named, as OpenAI's clients list them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.gateway.documented import KEYED, LISTED
from services.gateway.door import Door
from services.gateway.problems import Problem
from shared.models import DEFAULT_MODELS


def router(door: Door) -> APIRouter:
    """The routes, bound to their door."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models", openapi_extra=KEYED, responses=LISTED, summary="Models that can be named")
    async def models(request: Request) -> Response:
        """The default model of each provider; any other model of a known provider can be named too."""
        door.keeper.admit(request)
        data = [_model(f"{provider}:{model}") for provider, model in DEFAULT_MODELS.items()]
        return JSONResponse({"object": "list", "data": data})

    @routes.get("/models/{name:path}", openapi_extra=KEYED, responses=LISTED, summary="One model")
    async def model(request: Request, name: str) -> Response:
        """One of the models that are listed."""
        door.keeper.admit(request)
        if name not in {f"{provider}:{model}" for provider, model in DEFAULT_MODELS.items()}:
            raise Problem(404, "model_not_found", f"{name!r} is not listed; it may be used all the same", retry=False)
        return JSONResponse(_model(name))

    return routes


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": name.split(":")[0]}
