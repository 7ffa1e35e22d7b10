"""Parses documents: texts here, HTML and PDF in a child process that may die of them."""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Final, Self

from servicekit.telemetry.metrics import counter

from orchestrator.core.document import Parsed, Rejected, Source
from orchestrator.core.plain_text import decode, markdown_title

KINDS: Final = {"text/html": 0, "application/pdf": 1}
HEADER_BYTES: Final = 9
RESTARTS = counter("penstock_orchestrator_parser_restarts", "Times the parsing process was killed or died")


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What one document may cost: memory in MiB, CPU and wall time in seconds, pages, characters of text."""

    memory_mib: int = 768
    cpu_s: int = 20
    wall_s: float = 30.0
    pages: int = 2_000
    chars: int = 10_000_000


class ProcessParser:
    """The Parser port. The child process is started by the first HTML or PDF and again whenever it is gone."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the child process."""
        await self._stop()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return None if self._process is None else self._process.pid

    async def parse(self, source: Source) -> Parsed:
        """Return text and title; raise Rejected (not_utf8, unreadable_pdf, encrypted_pdf, parse_limit)."""
        kind = KINDS.get(source.media_type)
        if kind is not None:
            return await self._in_child(kind, source.content)
        text = await asyncio.to_thread(decode, source.content)
        return Parsed(text, markdown_title(text) if source.media_type == "text/markdown" else "")

    async def _in_child(self, kind: int, content: bytes) -> Parsed:
        async with self._turn:
            whole = False
            try:
                async with asyncio.timeout(self._limits.wall_s):
                    status, reply = await self._exchange(await self._child(), kind, content)
                whole = True
            except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
                RESTARTS.inc()
                raise Rejected("the document takes too much time or memory to read", reason="parse_limit") from error
            finally:
                if not whole:  # also when the caller went away in between: the next reply would be his
                    await self._stop()
        first, second = json.loads(reply)
        if status:
            raise Rejected(second, reason=first)
        return Parsed(first, second)

    async def _exchange(self, child: asyncio.subprocess.Process, kind: int, content: bytes) -> tuple[int, bytes]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(kind.to_bytes(1, "big") + len(content).to_bytes(8, "big"))
        child.stdin.write(content)
        await child.stdin.drain()
        header = await child.stdout.readexactly(HEADER_BYTES)
        return header[0], await child.stdout.readexactly(int.from_bytes(header[1:], "big"))

    async def _child(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            limits = self._limits
            arguments = map(str, (limits.memory_mib, limits.cpu_s, limits.pages, limits.chars))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "orchestrator.adapters.parse_worker", *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        return self._process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  else its pipes outlive a killed child
