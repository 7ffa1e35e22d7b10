"""Reads JSON bodies into typed requests, and writes JSON."""

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.errors import invalid

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
UINT32_MAX = 2**32 - 1


class Body(BaseModel):
    """A part of a request. Types are not bent to fit, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


async def read(request: Request, model: type[B]) -> B:
    """Return the body as `model`; raise InvalidInput that names the field at fault."""
    return parse(model, await request.body())


def parse(model: type[B], body: bytes) -> B:
    """Return JSON text as `model`; raise InvalidInput that names the field at fault."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error


def json_response(content: Any) -> Response:
    """Return content as JSON."""
    return Response(orjson.dumps(content), media_type="application/json")
