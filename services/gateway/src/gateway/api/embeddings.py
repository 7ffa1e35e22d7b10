"""POST /v1/embeddings: texts, or their token ids, to vectors, in OpenAI's form."""

import re
from base64 import b64encode
from typing import Annotated, Any, Final, Literal

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.inference.v1 import inference_pb2 as inference
from pydantic import Field, WithJsonSchema
from servicekit.errors import InvalidInput
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import UINT32_MAX, Body, json_response, read
from gateway.api.calls import Calls
from gateway.api.chat_answer import served_headers

MOST_TEXTS: Final = 2048
TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 1}
TOKENS: Final[dict[str, Any]] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": UINT32_MAX},
}
FORMS: Final[list[dict[str, Any]]] = [
    TEXT,
    {"type": "array", "minItems": 1, "maxItems": MOST_TEXTS, "items": TEXT},
    TOKENS,
    {"type": "array", "minItems": 1, "maxItems": MOST_TEXTS, "items": TOKENS},
]
SERVICE_FIELD: Final = re.compile(r"(?:texts|tokens)(?:\[(\d+)\])?(?:\.ids(\[\d+\]))?")
"""How the service names what is at fault: `texts[3]`, `tokens[3].ids[7]`."""


class EmbeddingsRequest(Body):
    """Texts to encode. Token ids are those of the encoder's own tokenizer, without its special tokens."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[Any, WithJsonSchema({"anyOf": FORMS})]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=UINT32_MAX)] | None = None
    user: Any = None

    def typed(self) -> pb.EmbedRequest:
        """Return the typed request; raise InvalidInput that names the element at fault."""
        request = pb.EmbedRequest(model=self.model, dimensions=self.dimensions)
        match self.input:
            case str(text):
                request.texts.append(_checked_text(text, "input"))
            case [str(), *_]:
                request.texts.extend(_checked_texts(self.input))
            case [[*_], *_]:
                for place, ids in enumerate(_at_most(self.input)):
                    request.tokens.add(ids=_checked_ids(ids, f"input[{place}]"))
            case [_, *_]:
                request.tokens.add(ids=_checked_ids(self.input, "input"))
            case _:
                raise InvalidInput("input is a text, a list of texts, or token ids, and not empty", field="input")
        return request

    @property
    def alone(self) -> bool:
        """Whether the input is one text, and not a list of them."""
        return isinstance(self.input, str) or not isinstance(self.input[0], str | list)

    def named(self, error: InvalidInput) -> InvalidInput:
        """Return an error of the service with the field as this caller sent it."""
        found = SERVICE_FIELD.fullmatch(error.field)
        if found is None:
            return error
        place, token = found.groups()
        field = "input" + (f"[{place}]" if place and not self.alone else "") + (token or "")
        return InvalidInput(error.message, reason=error.reason, field=field)


class EmbeddingsRoutes:
    """Embeddings in OpenAI's form."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def create(self, request: Request) -> Response:
        """Encode one text or many."""
        asked = await read(request, EmbeddingsRequest, ignore_unknown=self._calls.ignores_unknown)
        try:
            embedded = await self._calls.embed(asked.typed())
        except InvalidInput as error:
            raise asked.named(error) from error
        rows = _base64_rows(embedded) if asked.encoding_format == "base64" else _float_rows(embedded)
        items = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        tokens = sum(embedded.token_counts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        response = json_response({"object": "list", "data": items, "model": asked.model, "usage": usage})
        served = inference.ServedModel(model=embedded.encoder.model, version=embedded.encoder.version)
        response.raw_headers.extend(served_headers(served))
        return response


def _at_most(values: list[Any]) -> list[Any]:
    if len(values) > MOST_TEXTS:
        raise InvalidInput(f"at most {MOST_TEXTS} texts are taken at once, not {len(values)}", field="input")
    return values


def _checked_text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"{where} is not a text, as the first one is", field=where)
    if not text:
        raise InvalidInput(f"{where} is empty", reason="empty_text", field=where)
    return text


def _checked_texts(texts: list[Any]) -> list[str]:
    return [_checked_text(text, f"input[{place}]") for place, text in enumerate(_at_most(texts))]


def _checked_ids(ids: Any, where: str) -> list[int]:
    if not isinstance(ids, list) or not ids:
        raise InvalidInput(f"{where} has to be a list of token ids, and not empty", field=where)
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > UINT32_MAX:
        place = next(place for place, id_ in enumerate(ids) if type(id_) is not int or not 0 <= id_ <= UINT32_MAX)
        raise InvalidInput(f"{where}[{place}] is not a token id", field=f"{where}[{place}]")
    return ids


def _base64_rows(embedded: embedding.EmbedResponse) -> list[str]:
    """Return each vector's own bytes: they are float32, little-endian already, as the client decodes them."""
    width, vectors = 4 * embedded.encoder.dimensions, embedded.vectors
    return [b64encode(vectors[at : at + width]).decode() for at in range(0, len(vectors), width)]


def _float_rows(embedded: embedding.EmbedResponse) -> list[list[float]]:
    width = embedded.encoder.dimensions
    numbers: list[float] = memoryview(embedded.vectors).cast("f").tolist()  # type: ignore[assignment]  # of floats, as cast says
    return [numbers[at : at + width] for at in range(0, len(numbers), width)]
