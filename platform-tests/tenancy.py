"""The admin and usage calls of a running gateway, for tests that need tenants, limits and the ledger."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from stack_process import RunningStack


@dataclass(frozen=True, slots=True)
class Key:
    """A new key: its public id, its text, and whose it is."""

    id: str
    text: str
    tenant: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What gRPC wants to see."""
        return (("authorization", f"Bearer {self.text}"),)


class Administration:
    """Makes tenants and keys, and reads the ledger; every refusal is a failed assertion."""

    def __init__(self, session: httpx.AsyncClient) -> None:
        self._session = session

    async def tenant(self, limits: dict[str, Any] | None = None, **fields: Any) -> str:
        """Make a tenant with a name of its own."""
        name = f"tenant-{secrets.token_hex(4)}"
        await self.post("/v1/admin/tenants", {"id": name, "limits": limits or {}, **fields})
        return name

    async def key(self, tenant: str | None = None, **fields: Any) -> Key:
        """Make a key, of a new tenant without limits if none is named."""
        tenant = tenant or await self.tenant()
        made = await self.post("/v1/admin/keys", {"tenant": tenant, **fields})
        return Key(made["public_id"], made["key"], tenant)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send something and return the answer."""
        response = await self._session.post(path, json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def attempts(self, tenant: str) -> list[dict[str, Any]]:
        """Return every row of a tenant that is in the ledger's store by now."""
        return await self._all("/v1/admin/usage/attempts", {"tenant": tenant})

    async def cost_nanos(self, tenant: str) -> tuple[int, int]:
        """Return how many attempts and what cost the hourly sums have of a tenant."""
        sums = await self._all("/v1/admin/usage", {"tenant": tenant, "by": "model"})
        return sum(each["attempts"] for each in sums), sum(each["cost_nanos"] for each in sums)

    async def _all(self, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token: str | None = ""
        while token is not None:
            response = await self._session.get(path, params={**query, "page_size": "1000", "page_token": token})
            assert response.status_code == 200, response.text
            found += response.json()["data"]
            token = response.json()["next_page_token"]
        return found


def bearer(key: str) -> dict[str, str]:
    """Return the header that REST wants to see."""
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def session(stack: RunningStack, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Speak to the gateway under a key, over as many connections as it takes."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=stack.url, headers=bearer(key), timeout=60, trust_env=False, limits=limits
    ) as made:
        yield made
