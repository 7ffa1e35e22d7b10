"""Versions, verdicts, roles and comparisons in the pool's database."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import orjson
import sqlalchemy
from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from inference.adapters import version_tables as tables
from inference.adapters.sql import open_engine, translated
from inference.core.shadow import Comparison
from inference.core.traffic import SplitBy
from inference.core.version_ports import Assignment, Change, Judgement, Outdated, ShadowReport, Write
from inference.core.versions import Evaluation, Registered, Roles, Variant, Verdict, Version

KEPT_COMPARISONS: Final = 10_000
"""The latest of each model."""


class SqlVersions:
    """Keeps versions and comparisons; several processes may share the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["SqlVersions"]:
        """Open the database at a URL, bringing its tables up to date first."""
        async with open_engine(url) as engine:
            yield cls(engine)

    async def generation(self) -> int:
        """Return the number of writes so far."""
        (row,) = await self._rows(sqlalchemy.select(tables.generation.c.number))
        return int(row["number"])

    async def load(self) -> Mapping[str, Registered]:
        """Return everything, by model."""
        ordered = sqlalchemy.select(tables.variants).order_by(tables.variants.c.position)
        rows = await self._rows(ordered)
        variants: defaultdict[tuple[str, str], list[Variant]] = defaultdict(list)
        evaluations: defaultdict[str, dict[tuple[str, str], Evaluation]] = defaultdict(dict)
        for row in rows:
            variant = Variant(row["name"], row["served_by"], row["digest"], row["cost_nanos"])
            variants[row["model"], row["version"]].append(variant)
            if row["verdict"]:
                evaluations[row["model"]][row["version"], row["name"]] = _evaluation(row)
        versions: defaultdict[str, dict[str, Version]] = defaultdict(dict)
        for row in await self._rows(sqlalchemy.select(tables.versions)):
            mine = tuple(variants[row["model"], row["name"]])
            versions[row["model"]][row["name"]] = Version(**row, variants=mine)
        roles = {row["model"]: _roles(row) for row in await self._rows(sqlalchemy.select(tables.roles))}
        return {
            model: Registered(versions[model], evaluations[model], roles.get(model, Roles()))
            for model in [*versions, *(model for model in roles if model not in versions)]
        }

    async def commit(self, generation: int, write: Write) -> None:
        """Do a write and journal it in one transaction, which counts up the generation first."""
        counter = tables.generation
        counted = sqlalchemy.update(counter).where(counter.c.number == generation).values(number=generation + 1)
        with translated():
            async with self._engine.begin() as connection:
                if (await connection.execute(counted)).rowcount != 1:
                    raise Outdated
                if isinstance(write, Version):
                    await _add(connection, write)
                elif isinstance(write, Judgement):
                    await _judge(connection, write)
                else:
                    await _assign(connection, write)

    async def changes(self, model: str, before_id: int, size: int) -> Sequence[Change]:
        """Return changes, newest first."""
        query = sqlalchemy.select(tables.changes).order_by(tables.changes.c.id.desc()).limit(size)
        if before_id:
            query = query.where(tables.changes.c.id < before_id)
        if model:
            query = query.where(tables.changes.c.model == model)
        return [Change(**row) for row in await self._rows(query)]

    async def keep(self, comparisons: Sequence[Comparison]) -> None:
        """Add comparisons, and drop each model's oldest beyond KEPT_COMPARISONS."""
        table = tables.comparisons
        with translated():
            async with self._engine.begin() as connection:
                await connection.execute(sqlalchemy.insert(table), [_comparison(each) for each in comparisons])
                for model in {each.model for each in comparisons}:
                    oldest = (
                        sqlalchemy.select(table.c.id)
                        .where(table.c.model == model)
                        .order_by(table.c.id.desc())
                        .offset(KEPT_COMPARISONS - 1)
                        .limit(1)
                        .scalar_subquery()
                    )
                    await connection.execute(
                        sqlalchemy.delete(table).where(table.c.model == model, table.c.id < oldest)
                    )

    async def report(self, model: str, shadow: str) -> ShadowReport:
        """Return what the kept comparisons of a model with one of its versions say."""
        table, count = tables.comparisons, sqlalchemy.func.count()
        of = (table.c.model == model, table.c.shadow == shadow)
        answered = table.c.failure == ""
        (row,) = await self._rows(
            sqlalchemy.select(
                count.label("requests"),
                count.filter(table.c.same).label("same"),
                count.filter(~answered).label("failed"),
                sqlalchemy.func.max(table.c.max_abs_diff).label("max_abs_diff"),
                sqlalchemy.func.avg(table.c.champion_ms).label("champion_ms"),
                sqlalchemy.func.avg(table.c.shadow_ms).filter(answered).label("shadow_ms"),
            ).where(*of)
        )
        told = sqlalchemy.select(table.c.detail).where(*of, table.c.detail != "").order_by(table.c.id.desc()).limit(10)
        details = [each["detail"] for each in await self._rows(told)]
        means = {name: float(row[name] or 0.0) for name in ("champion_ms", "shadow_ms")}
        return ShadowReport(row["requests"], row["same"], row["failed"], row["max_abs_diff"], **means, details=details)

    async def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        with translated():
            async with self._engine.connect() as connection:
                return [dict(row) for row in (await connection.execute(query)).mappings()]


async def _add(connection: AsyncConnection, version: Version) -> None:
    values = {
        name: getattr(version, name) for name in ("model", "name", "digest", "source", "registered_at", "registered_by")
    }
    await connection.execute(sqlalchemy.insert(tables.versions).values(values))
    for position, variant in enumerate(version.variants):
        row = asdict(variant) | {"model": version.model, "version": version.name, "position": position}
        await connection.execute(sqlalchemy.insert(tables.variants).values(row))
    told = [asdict(each) for each in version.variants]
    shown = {"version": version.name, "digest": version.digest, "source": version.source, "variants": told}
    at, by = version.registered_at, version.registered_by
    await _journal(connection, version.model, (at, by), "register", {}, shown)


async def _judge(connection: AsyncConnection, write: Judgement) -> None:
    table, after = tables.variants, write.after
    same = (table.c.model == write.model, table.c.version == write.version, table.c.name == write.variant)
    values = {"verdict": after.verdict.value, "judged_at": after.at, "judged_by": after.by, "report": after.report}
    await connection.execute(sqlalchemy.update(table).where(*same).values(values))
    named = {"version": write.version, "variant": write.variant}
    before = named | {"verdict": write.before.verdict.value if write.before else Verdict.PENDING.value}
    shown = named | {"verdict": after.verdict.value, "report": after.report}
    await _journal(connection, write.model, (after.at, after.by), "evaluate", before, shown)


async def _assign(connection: AsyncConnection, write: Assignment) -> None:
    values = {"revision": write.after.revision, "roles": _roles_json(write.after)}
    if write.before.revision:
        updated = sqlalchemy.update(tables.roles).where(tables.roles.c.model == write.model).values(values)
        await connection.execute(updated)
    else:
        await connection.execute(sqlalchemy.insert(tables.roles).values(values | {"model": write.model}))
    before, after = (_shown(each) for each in (write.before, write.after))
    await _journal(connection, write.model, (write.at, write.by), "assign", before, after)


async def _journal(
    connection: AsyncConnection,
    model: str,
    who: tuple[datetime, str],
    action: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> None:
    at, by = who
    texts = {"before": orjson.dumps(before).decode(), "after": orjson.dumps(after).decode()}
    row = {"model": model, "at": at, "by": by, "action": action, **texts}
    await connection.execute(sqlalchemy.insert(tables.changes).values(row))


def _evaluation(row: Mapping[str, Any]) -> Evaluation:
    return Evaluation(Verdict(row["verdict"]), row["judged_at"], row["judged_by"], row["report"] or "")


def _roles_json(roles: Roles) -> dict[str, Any]:
    return _shown(roles) | {"slots": roles.slots, "former": roles.former}


def _shown(roles: Roles) -> dict[str, Any]:
    """Return roles as the journal tells them: the callers of each canary are left out."""
    return {
        "champion": roles.champion,
        "canaries": dict(roles.canaries),
        "shadow": roles.shadow,
        "shadow_share": roles.shadow_share,
        "retired": sorted(roles.retired),
        "split_by": roles.split_by.value,
        "revision": roles.revision,
    }


def _roles(row: Mapping[str, Any]) -> Roles:
    told = row["roles"]
    return Roles(
        champion=told["champion"],
        canaries=told["canaries"],
        shadow=told["shadow"],
        shadow_share=told["shadow_share"],
        retired=frozenset(told["retired"]),
        split_by=SplitBy(told["split_by"]),
        revision=row["revision"],
        slots={name: tuple((start, end) for start, end in ranges) for name, ranges in told["slots"].items()},
        former=told["former"],
    )


def _comparison(each: Comparison) -> dict[str, Any]:
    difference = each.difference
    return {
        "model": each.model,
        "champion": each.champion,
        "shadow": each.shadow,
        "at": each.at,
        "same": difference.same,
        "max_abs_diff": difference.max_abs_diff,
        "detail": difference.detail[:256],
        "champion_ms": each.champion_ms,
        "shadow_ms": each.shadow_ms,
        "failure": each.failure,
    }
