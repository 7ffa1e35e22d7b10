"""The hostile upstream as a process of its own, for tests; hostile/__main__.py says what its scenarios do."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parent / "hostile"
SCENARIOS = (
    *("ok", "ok-paced", "ok-tools", "ok-json", "ok-n", "ok-echo", "ok-length", "refusal", "filtered", "bad-json"),
    *("bad-json-once", "bad-tools", "no-usage", "flaky", "500", "503", "401", "404", "400", "context-length", "429"),
    *("429-retry-after", "429-date", "429-long", "redirect", "silent", "slow-first-byte", "stall", "cut", "garbage"),
    *("not-http", "wrong-type", "truncated-json", "empty-choices", "no-finish", "one-of-n", "error-200", "error-event"),
    *("endless", "huge-line"),
)
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Hostile:
    """A running hostile upstream."""

    url: str

    def counts(self) -> dict[str, Any]:
        """Return how many requests came, run and were left, by scenario."""
        return dict(self._get("/counts"))

    def last(self, scenario: str) -> dict[str, Any]:
        """Return body and headers of the latest request of a scenario."""
        return dict(self._get(f"/last?scenario={scenario}"))

    def reset(self) -> None:
        """Forget what has been counted."""
        with _opener.open(urllib.request.Request(f"{self.url}/reset", method="POST"), timeout=5) as response:
            response.read()

    def _get(self, path: str) -> Any:
        with _opener.open(f"{self.url}{path}", timeout=5) as response:
            return json.load(response)


@contextmanager
def running_hostile(port: int = 0, host: str = "127.0.0.1") -> Iterator[Hostile]:
    """Start the program on a port, or a free one, and end it afterwards."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(port), host], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the hostile upstream did not start"
            yield Hostile(url)
        finally:
            process.kill()


def catalogue_models(upstream: str = "hostile", timeout_s: float = 20.0) -> str:
    """Return a catalogue's entries, one a line, for every scenario: `hostile-ok` and so on, and `hostile-refused`."""
    entry = (
        "  - {{name: hostile-{name}, task: generate, openai: {{upstream: {upstream}, model: hostile-{name}}}, "
        "context_tokens: 32768, timeout_s: {timeout_s}}}\n"
    )
    entries = [entry.format(name=name, upstream=upstream, timeout_s=timeout_s) for name in SCENARIOS]
    return "".join([*entries, entry.format(name="refused", upstream=f"{upstream}-refused", timeout_s=timeout_s)])


def catalogue_upstreams(url: str, upstream: str = "hostile", stall_timeout_s: float = 2.0) -> str:
    """Return the entries of a catalogue's `upstreams` that `catalogue_models` names, quick to lose patience."""
    patience = f"first_byte_timeout_s: {stall_timeout_s}, stall_timeout_s: {stall_timeout_s}"
    return (
        f'  {upstream}: {{base_url: "{url}/v1", {patience}, answer_timeout_s: {stall_timeout_s + 3}}}\n'
        f'  {upstream}-refused: {{base_url: "http://127.0.0.1:1/v1"}}\n'
    )
