"""POST /v1/embeddings: texts to vectors, in OpenAI's form."""

from base64 import b64encode
from typing import Annotated, Any, Literal

from penstock.embedding.v1 import embedding_pb2 as embedding
from penstock.gateway.v1 import gateway_pb2 as pb
from pydantic import Field, field_validator
from servicekit.errors import InvalidInput
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.body import Body, json_response, read
from gateway.api.calls import Calls

MOST_TEXTS = 2048
Text = Annotated[str, Field(min_length=1)]


class EmbeddingsRequest(Body):
    """Texts to encode. Token ids are not taken: they would have to be those of the encoder's own tokenizer."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Any = None

    @field_validator("input", mode="before")
    @classmethod
    def _no_tokens(cls, value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], int | list):
            raise ValueError("token ids are not supported; send text")
        if isinstance(value, list) and len(value) > MOST_TEXTS:
            raise ValueError(f"at most {MOST_TEXTS} texts are taken at once, not {len(value)}")
        return value


class EmbeddingsRoutes:
    """Embeddings in OpenAI's form."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def create(self, request: Request) -> Response:
        """Encode one text or many."""
        asked = await read(request, EmbeddingsRequest)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        try:
            embedded = await self._calls.embed(pb.EmbedRequest(model=asked.model, texts=texts))
        except InvalidInput as error:  # the service says `texts[3]`; this caller sent `input`
            field = "input" if isinstance(asked.input, str) else error.field.replace("texts", "input", 1)
            raise InvalidInput(error.message, reason=error.reason, field=field) from error
        _check_dimensions(asked.dimensions, embedded.encoder)
        rows = _base64_rows(embedded) if asked.encoding_format == "base64" else _float_rows(embedded)
        items = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        tokens = sum(embedded.token_counts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": items, "model": asked.model, "usage": usage})


def _check_dimensions(asked: int | None, encoder: embedding.Encoder) -> None:
    if asked is not None and asked != encoder.dimensions:
        message = f"{encoder.model} gives {encoder.dimensions} dimensions, no other number"
        raise InvalidInput(message, field="dimensions")


def _base64_rows(embedded: embedding.EmbedResponse) -> list[str]:
    """Return each vector's own bytes: they are float32, little-endian already, as the client decodes them."""
    width, vectors = 4 * embedded.encoder.dimensions, embedded.vectors
    return [b64encode(vectors[at : at + width]).decode() for at in range(0, len(vectors), width)]


def _float_rows(embedded: embedding.EmbedResponse) -> list[list[float]]:
    width = embedded.encoder.dimensions
    numbers: list[float] = memoryview(embedded.vectors).cast("f").tolist()  # type: ignore[assignment]  # of floats, as cast says
    return [numbers[at : at + width] for at in range(0, len(numbers), width)]
