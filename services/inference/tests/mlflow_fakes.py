"""An MLflow registry that answers as the real one (3.x) does, as far as the pool asks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

API = "/api/2.0/mlflow"


class FakeMlflow:
    """Keeps models, versions and aliases; `broken` replaces every answer by a status and a body."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], dict[str, Any]] = {}
        self.aliases: dict[tuple[str, str], str] = {}
        self.models: set[str] = set()
        self.broken: tuple[int, bytes] | None = None
        self.authorizations: list[str | None] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers.get("Authorization"))
        if self.broken is not None:
            status, body = self.broken
            return web.Response(status=status, body=body, headers={"Location": "/elsewhere"})
        asked = dict(request.query) if request.method == "GET" else await request.json()
        call = (request.method, request.path.removeprefix(f"{API}/"))
        if call == ("POST", "registered-models/create"):
            self.models.add(asked["name"])
            return web.json_response({"registered_model": {"name": asked["name"]}})
        if call == ("POST", "model-versions/create"):
            return self._create(asked)
        if call == ("POST", "registered-models/alias"):
            self.aliases[asked["name"], asked["alias"]] = asked["version"]
            return web.json_response({})
        if call == ("GET", "registered-models/alias"):
            return self._by_alias(asked["name"], asked["alias"])
        if call == ("GET", "model-versions/get"):
            return self._by_number(asked["name"], asked["version"])
        return web.json_response({"error_code": "ENDPOINT_NOT_FOUND", "message": "no such call"}, status=404)

    def _create(self, asked: dict[str, Any]) -> web.Response:
        number = str(sum(name == asked["name"] for name, _ in self.versions) + 1)
        made = {"name": asked["name"], "version": number, "status": "READY", "source": asked["source"], "run_id": ""}
        if asked.get("tags"):
            made["tags"] = asked["tags"]
        self.versions[asked["name"], number] = made
        return web.json_response({"model_version": made})

    def _by_alias(self, name: str, alias: str) -> web.Response:
        if name not in self.models:
            return _missing(f"Registered Model with name={name} not found")
        if (name, alias) not in self.aliases:
            told = {"error_code": "INVALID_PARAMETER_VALUE", "message": f"Registered model alias {alias} not found."}
            return web.json_response(told, status=400)
        return self._by_number(name, self.aliases[name, alias])

    def _by_number(self, name: str, version: str) -> web.Response:
        if (name, version) not in self.versions:
            return _missing(f"Model Version (name={name}, version={version}) not found")
        return web.json_response({"model_version": self.versions[name, version]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve on a free port of the loopback interface, and yield the URL."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def _missing(message: str) -> web.Response:
    return web.json_response({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": message}, status=404)
