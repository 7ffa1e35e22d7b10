"""Makes clean plain text of decoded text: what offsets refer to."""

import re
from typing import Final

from orchestrator.core.document import Rejected

LINE_END: Final = re.compile(r"\r\n?|\x0c|\u2028|\u2029")
UNWANTED: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
HEADING: Final = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
TITLE_CHARS: Final = 256


def decode(content: bytes) -> str:
    """Return UTF-8 bytes as clean text; raise Rejected with reason not_utf8."""
    try:
        return clean(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Rejected(f"byte {error.start} is not UTF-8", reason="not_utf8") from error


def clean(text: str) -> str:
    """Return `text` with `\\n` line ends and without control characters, byte order marks or lone surrogates."""
    return UNWANTED.sub("", LINE_END.sub("\n", text))


def markdown_title(text: str) -> str:
    """Return the first heading, or nothing."""
    found = HEADING.search(text)
    return short(found[1]) if found else ""


def short(title: str) -> str:
    """Return a title on one line, at most 256 characters."""
    return " ".join(clean(title).split())[:TITLE_CHARS]
