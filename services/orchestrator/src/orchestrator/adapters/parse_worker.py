"""The child process that reads HTML and PDF: one document at a time from stdin, under limits of memory, time and size.

A request is `>BQ` (0 HTML, 1 PDF; bytes that follow) and the content; a reply is `>BQ` (0 text, 1 rejected; bytes that
follow) and a JSON list: [text, title] or [reason, message].
"""

import io
import json
import logging
import resource
import struct
import sys
from typing import Final

import pypdf
from pypdf.errors import FileNotDecryptedError, LimitReachedError
from selectolax.lexbor import LexborHTMLParser, LexborNode

from orchestrator.core.document import Rejected
from orchestrator.core.plain_text import clean, decode, short

HEADER: Final = struct.Struct(">BQ")
HTML, PDF = 0, 1
TEXT, REJECTED = 0, 1
DROPPED: Final = "script, style, nav, noscript, template, svg, iframe, object, select, button"
_BLOCKS: Final = """
    address article aside blockquote body br caption dd details div dl dt fieldset figcaption figure footer form h1
    h2 h3 h4 h5 h6 header hr li main ol p pre section summary table tbody td tfoot th thead tr ul
"""
BLOCKS: Final = frozenset(_BLOCKS.split())
_TIGHT: Final = """
    br dd dt li td th tr
"""
TIGHT: Final = frozenset(_TIGHT.split())  # these end a line, not a paragraph


class TooMuch(Rejected):
    """The document goes past a limit."""

    default_reason = "parse_limit"


def read_html(content: bytes, max_chars: int) -> tuple[str, str]:
    """Return text and title of a page, scripts, styles and navigation left out."""
    tree = LexborHTMLParser(decode(content))
    title = tree.css_first("title")
    named = short(title.text()) if title is not None else ""
    for node in tree.css(DROPPED):
        node.decompose()
    text = _text_of(tree.body) if tree.body is not None else ""
    if len(text) > max_chars:
        raise TooMuch(f"the page has more than {max_chars} characters of text")
    return text, named


def _text_of(root: LexborNode) -> str:
    """Return the text below a node: lines joined inside a block, blocks apart."""
    parts: list[str] = []
    stack: list[LexborNode | str] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            parts.append(node)
        elif node.is_text_node:
            parts.append(" ".join(f"|{node.text_content or ''}|".split())[1:-1])
        else:
            inner: list[LexborNode | str] = list(node.iter(include_text=True))
            if node.tag in TIGHT:
                inner = [*inner, "\n"]
            elif node.tag in BLOCKS:
                inner = ["\n\n", *inner, "\n\n"]
            stack.extend(reversed(inner))
    lines = [" ".join(line.split()) for line in "".join(parts).split("\n")]
    paragraphs = "\n".join(lines).split("\n\n")
    return clean("\n\n".join(filter(None, (paragraph.strip("\n") for paragraph in paragraphs))))


def read_pdf(content: bytes, max_pages: int, max_chars: int) -> tuple[str, str]:
    """Return text and title of a PDF, pages apart by an empty line."""
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        _check(reader, max_pages)
        return _pages(reader, max_chars), short(str(reader.metadata.title or "")) if reader.metadata else ""
    except (Rejected, MemoryError):
        raise
    except FileNotDecryptedError as error:
        raise Rejected("the PDF is encrypted", reason="encrypted_pdf") from error
    except (LimitReachedError, RecursionError) as error:
        raise TooMuch("a page of the PDF goes past the limits") from error
    except Exception as error:
        raise Rejected("the PDF cannot be read", reason="unreadable_pdf") from error


def _check(reader: pypdf.PdfReader, max_pages: int) -> None:
    if reader.is_encrypted and not reader.decrypt(""):
        raise Rejected("the PDF is encrypted", reason="encrypted_pdf")
    if len(reader.pages) > max_pages:
        raise TooMuch(f"the PDF has {len(reader.pages)} pages; at most {max_pages}")


def _pages(reader: pypdf.PdfReader, max_chars: int) -> str:
    pages: list[str] = []
    chars = 0
    for page in reader.pages:
        pages.append(clean(page.extract_text()).strip())
        chars += len(pages[-1])
        if chars > max_chars:
            raise TooMuch(f"the PDF has more than {max_chars} characters of text")
    return "\n\n".join(filter(None, pages))


def main() -> None:
    """Serve documents until stdin ends; the limits are the arguments: MiB, CPU seconds, pages, characters."""
    logging.disable(logging.CRITICAL)
    memory_mib, cpu_s, max_pages, max_chars = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.read(HEADER.size):
        kind, size = HEADER.unpack(header)
        _allow_cpu(cpu_s)
        try:
            content = requests.read(size)
            found = read_pdf(content, max_pages, max_chars) if kind == PDF else read_html(content, max_chars)
            status, reply = TEXT, json.dumps(found).encode()
        except Rejected as error:
            status, reply = REJECTED, json.dumps([error.reason, error.message]).encode()
        replies.write(HEADER.pack(status, len(reply)) + reply)
        replies.flush()


def _allow_cpu(seconds: int) -> None:
    """Let the process use `seconds` more of CPU time; the kernel ends it after that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
