"""How much text one request may carry."""

from collections.abc import Sequence
from dataclasses import dataclass

from servicekit.errors import InvalidInput


class TooManyTexts(InvalidInput):
    """None, or more texts than one request may carry."""

    default_reason = "too_many_texts"


class EmptyText(InvalidInput):
    """A text without a character."""

    default_reason = "empty_text"


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
