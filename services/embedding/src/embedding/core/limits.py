"""How much text one request may carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from servicekit.errors import InvalidInput

BYTES_PER_TOKEN: Final = 4
"""About the characters of a token; a text as ids may be about as long as one as characters."""


class TooManyTexts(InvalidInput):
    """None, or more texts than one request may carry."""

    default_reason = "too_many_texts"


class EmptyText(InvalidInput):
    """A text without a character."""

    default_reason = "empty_text"


class EitherTextsOrTokens(InvalidInput):
    """Texts and token ids in one request; the vectors could not be told apart."""

    default_reason = "texts_and_tokens"


class UnknownToken(InvalidInput):
    """An id that is not in the encoder's vocabulary."""

    default_reason = "unknown_token"


class WrongDimensions(InvalidInput):
    """Vectors of a length that the encoder does not give."""

    default_reason = "wrong_dimensions"


class TextTooLong(InvalidInput):
    """A text, or all of them together, of more bytes than allowed."""

    default_reason = "text_too_long"


@dataclass(frozen=True, slots=True)
class TextLimits:
    """Bounds of one request; sizes are in bytes of UTF-8."""

    texts: int = 2048
    text_bytes: int = 1_048_576
    request_bytes: int = 16 * 1_048_576

    def check(self, sizes: Sequence[int]) -> None:
        """Raise TooManyTexts, EmptyText or TextTooLong, naming the field."""
        if not 1 <= len(sizes) <= self.texts:
            raise TooManyTexts(f"{len(sizes)} texts were sent; 1 to {self.texts} are allowed", field="texts")
        if 0 in sizes:
            index = sizes.index(0)
            raise EmptyText(f"text {index} is empty", field=f"texts[{index}]")
        if max(sizes) > self.text_bytes:
            index = next(index for index, size in enumerate(sizes) if size > self.text_bytes)
            raise TextTooLong(
                f"text {index} has {sizes[index]} bytes; at most {self.text_bytes} are allowed", field=f"texts[{index}]"
            )
        if sum(sizes) > self.request_bytes:
            raise TextTooLong(
                f"the texts have {sum(sizes)} bytes together; at most {self.request_bytes} are allowed", field="texts"
            )

    def check_tokens(self, tokens: Sequence[Sequence[int]], vocabulary: int) -> None:
        """Raise as `check` does, for texts as token ids, or UnknownToken; an id counts as four bytes."""
        sizes = [BYTES_PER_TOKEN * len(ids) for ids in tokens]
        try:
            self.check(sizes)
        except InvalidInput as error:
            raise type(error)(error.message, field=error.field.replace("texts", "tokens", 1)) from error
        for index, ids in enumerate(tokens):
            if max(ids) >= vocabulary:
                place = next(place for place, id_ in enumerate(ids) if id_ >= vocabulary)
                raise UnknownToken(
                    f"token {ids[place]} is not in the encoder's vocabulary of {vocabulary}; "
                    "send text, or ids of the encoder's own tokenizer",
                    field=f"tokens[{index}].ids[{place}]",
                )
