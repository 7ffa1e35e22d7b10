"""Documents are read for real; hostile ones cost no more than they may, and nobody else anything."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from orchestrator.adapters.parser import ParseLimits, ProcessParser
from orchestrator.core.document import Parsed, Rejected
from orchestrator_fakes import source
from servicekit.testing import eventually

from services.orchestrator.tests.adapters.documents import bomb, encrypted, pdf

HTML, PDF, MARKDOWN = "text/html", "application/pdf", "text/markdown"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parser() -> AsyncIterator[ProcessParser]:
    async with ProcessParser(ParseLimits(memory_mib=512, cpu_s=5, wall_s=20, pages=3, chars=10_000)) as made:
        yield made


async def read(parser: ProcessParser, content: bytes, media_type: str = "text/plain") -> Parsed:
    return await parser.parse(source("d", content, media_type))


async def refused(parser: ProcessParser, content: bytes, media_type: str) -> str:
    with pytest.raises(Rejected) as raised:
        await read(parser, content, media_type)
    return raised.value.reason


async def test_plain_text_is_cleaned(parser: ProcessParser) -> None:
    parsed = await read(parser, b"\xef\xbb\xbfa\r\nb\x00\x07c\td\xe2\x82\xac")
    assert parsed == Parsed("a\nbc\td\u20ac", "")


async def test_the_first_heading_of_markdown_is_its_title(parser: ProcessParser) -> None:
    assert (await read(parser, b"intro\n\n## A  title ##\n\ntext", MARKDOWN)).title == "A title"


@pytest.mark.parametrize("media_type", ["text/plain", MARKDOWN, HTML])
async def test_what_is_not_utf8_is_refused(parser: ProcessParser, media_type: str) -> None:
    assert await refused(parser, b"caf\xe9", media_type) == "not_utf8"


async def test_html_becomes_text_without_scripts_and_navigation(parser: ProcessParser) -> None:
    page = b"""<html><head><title> My
      page </title><style>p{}</style></head><body><nav>Home</nav><h1>Head</h1><p>One <b>bold</b>,
      two.</p><script>alert(1)</script><ul><li>a</li><li>b</li></ul>
      <div>x<br>y<p>in</p>tail</div>&lt;tag&gt; &amp; more</body></html>"""
    parsed = await read(parser, page, HTML)
    assert parsed.title == "My page"
    assert parsed.text == "Head\n\nOne bold, two.\n\na\nb\n\nx\ny\n\nin\n\ntail\n\n<tag> & more"


async def test_deeply_nested_html_is_read(parser: ProcessParser) -> None:
    assert "deep" in (await read(parser, b"<div>" * 20_000 + b"deep", HTML)).text


async def test_a_pdf_is_read_page_by_page(parser: ProcessParser) -> None:
    assert await read(parser, pdf("First page.", "Second page.", title="A PDF"), PDF) == Parsed(
        "First page.\n\nSecond page.", "A PDF"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a pdf at all", "unreadable_pdf"),
        (b"%PDF-1.4\n" + b"\xff\x00junk" * 500, "unreadable_pdf"),
        (encrypted("secret text"), "encrypted_pdf"),
        (pdf(*["page"] * 4), "parse_limit"),
        (pdf("x" * 10_001), "parse_limit"),
    ],
    ids=["text", "junk", "encrypted", "pages", "characters"],
)
async def test_a_bad_pdf_is_refused_with_its_reason(parser: ProcessParser, content: bytes, reason: str) -> None:
    assert await refused(parser, content, PDF) == reason
    assert (await read(parser, pdf("Next."), PDF)).text == "Next."


async def test_a_page_like_a_zip_bomb_goes_past_the_limit_and_the_next_document_is_read(parser: ProcessParser) -> None:
    content = bomb()
    assert len(content) < 3_000_000
    assert await refused(parser, content, PDF) == "parse_limit"
    assert (await read(parser, pdf("Next."), PDF)).text == "Next."


async def test_a_killed_child_is_started_again(parser: ProcessParser) -> None:
    await read(parser, b"<p>x", HTML)
    pid = parser.pid
    assert pid is not None
    await read(parser, b"<p>y", HTML)
    assert parser.pid == pid
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: parser._process is not None and parser._process.returncode is not None)
    assert (await read(parser, b"<p>z", HTML)).text == "z"
    assert parser.pid != pid


async def test_wall_time_is_limited() -> None:
    async with ProcessParser(ParseLimits(wall_s=0.001)) as parser:
        assert await refused(parser, b"<p>x", HTML) == "parse_limit"
        assert parser.pid is None


async def test_a_caller_that_leaves_does_not_mix_up_replies(parser: ProcessParser) -> None:
    await read(parser, b"<p>warm", HTML)
    leaving = asyncio.create_task(read(parser, b"<p>mine" * 100_000, HTML))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await read(parser, b"<p>yours", HTML)).text == "yours"
