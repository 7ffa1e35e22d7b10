"""GET /v1/models and /v1/models/{id}: catalogue models and pipelines."""

from typing import Any

from penstock.inference.v1 import inference_pb2 as inference
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import json_response
from gateway.api.calls import Calls
from gateway.api.render import enum_names

TASKS = enum_names(inference.ModelTask, "MODEL_TASK_")


class ModelRoutes:
    """Models in OpenAI's form, with what Penstock knows more in `penstock`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self, _: Request) -> Response:
        """List the models and pipelines that the key opens."""
        models = await self._calls.list_models()
        return json_response({"object": "list", "data": [_model_json(model) for model in models]})

    async def get(self, request: Request) -> Response:
        """Return one model or pipeline; its id may contain slashes."""
        return json_response(_model_json(await self._calls.get_model(request.path_params["model"])))


def _model_json(model: inference.Model) -> dict[str, Any]:
    more = {
        "task": TASKS[model.task],
        "provider": model.provider,
        "version": model.version,
        "digest": model.digest or None,
        "ready": model.ready,
        "reason": model.reason or None,
        "context_tokens": model.context_tokens or None,
        "description": model.description,
    }
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_at.seconds,
        "owned_by": "penstock",
        "penstock": more,
    }
