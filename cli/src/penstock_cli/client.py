"""Calls the gateway over REST."""

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from penstock_cli.settings import Settings

TIMEOUT_S = 300.0


class CallFailed(Exception):
    """The gateway refused or could not be reached; the message is for people."""


class GatewayClient:
    """A session with the gateway."""

    def __init__(self, settings: Settings) -> None:
        """Take address and key from the settings."""
        key = settings.api_key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=settings.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
        self._url = settings.url

    def __enter__(self) -> Self:
        """Open the session."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self._http.close()

    def get(self, path: str) -> Any:
        """Return the JSON at a path; raise CallFailed."""
        return self._json("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON and return the JSON that comes back; raise CallFailed."""
        return self._json("POST", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON with what changes and return the JSON that comes back; raise CallFailed."""
        return self._json("PATCH", path, body)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Send JSON and yield the events of the answer, name and data; raise CallFailed, also for an error event."""
        try:
            with self._http.stream("POST", path, json=body, headers={"Accept": "text/event-stream"}) as response:
                if not response.is_success:
                    response.read()
                    raise CallFailed(_message(response))
                yield from _parsed(response.iter_lines())
        except httpx.HTTPError as error:
            raise CallFailed(self._unreachable(error)) from error

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise CallFailed(self._unreachable(error)) from error
        if not response.is_success:
            raise CallFailed(_message(response))
        return response.json()

    def _unreachable(self, error: httpx.HTTPError) -> str:
        return f"{self._url} cannot be reached ({error}); is the stack up? `penstock up` starts it"


def _parsed(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = "message"
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data = json.loads(line[5:])
            if "error" in data and name in {"message", "error"}:
                raise CallFailed(str(data["error"]["message"]))
            yield name, data
            name = "message"


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        field = f" (field {error['param']})" if error.get("param") else ""
        return f"{response.status_code}: {error['message']}{field}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}: {response.text[:200]}"
