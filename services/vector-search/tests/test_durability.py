"""Nothing acknowledged is lost: a process killed while it writes, and an index that lost its tail."""

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from vector_search.adapters.milvus import MilvusLite
from vector_search.adapters.sqlite import SqliteLog
from vector_search.core.sized import Limits, SizedIndex
from vector_search_fakes import ENCODER, entry_of, question_of, running

FAKES = Path(__file__).with_name("fakes.py")
WRITE_FOR_EVER = """
import asyncio, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from vector_search.adapters.milvus import MilvusLite
from vector_search.adapters.sqlite import SqliteLog
spec = spec_from_file_location("vector_search_fakes", sys.argv[2])
fakes = module_from_spec(spec)
sys.modules[spec.name] = fakes
spec.loader.exec_module(fakes)

async def write(store, lane):
    number = 0
    while True:
        name = f"d{lane}-{number % 20}"
        await store.put("acme", "kb", fakes.entry_of(name, f"{name} version {number}", "more"), fakes.ENCODER)
        print(name, number, flush=True)
        number += 1

async def main():
    folder = Path(sys.argv[1])
    with SqliteLog(folder / "log.sqlite") as log, MilvusLite(folder / "index.db") as index:
        async with fakes.running(log, index) as made:
            await asyncio.gather(*(write(made.store, lane) for lane in range(8)))

asyncio.run(main())
"""


def killed_while_writing(folder: Path, acknowledgements: int) -> dict[str, int]:
    """Let a child write, kill it, and return the last acknowledged version of every document."""
    acknowledged: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(folder), str(FAKES)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for count, line in enumerate(child.stdout):
            name, number = line.split()
            acknowledged[name] = int(number)
            if count == acknowledgements:
                child.send_signal(signal.SIGKILL)
    return acknowledged


async def everything_is_there(folder: Path, acknowledged: dict[str, int], rows: int) -> None:
    """Search in memory or, with 0 rows there, in Milvus."""
    with SqliteLog(folder / "log.sqlite") as log, MilvusLite(folder / "index.db") as index:
        async with running(log, SizedIndex(index, log, Limits(rows, 1_000_000))) as made:
            base = made.store.get("acme", "kb")
            assert len(index.rows(base.number)) == base.chunk_count
            for name, number in acknowledged.items():
                _, chunks = await made.store.document("acme", "kb", name)
                stored = int(chunks[0].text.split()[-1])
                assert stored >= number, "a later version may be stored, for its answer may have been on the way"
                found = await made.store.search("acme", "kb", question_of(chunks[0].text))
                assert found.hits[0].document.id == name
            _, revision, _ = await made.store.put("acme", "kb", entry_of("after", f"later {rows}"), ENCODER)
            assert revision == base.revision + 1


def test_killed_while_writing(tmp_path: Path) -> None:
    acknowledged = killed_while_writing(tmp_path, 150)
    for rows in (0, 1_000):
        asyncio.run(everything_is_there(tmp_path, acknowledged, rows))


@pytest.mark.parametrize("damage", ["gone", "torn", "garbage"])
def test_an_index_that_lost_its_tail_is_made_whole(tmp_path: Path, damage: str) -> None:
    acknowledged = killed_while_writing(tmp_path, 60)
    index = tmp_path / "index.db"
    if damage == "gone":
        shutil.rmtree(index)
    elif damage == "torn":
        tails = [file for file in index.rglob("wal_*.arrow") if file.stat().st_size]
        assert tails
        for file in tails:
            with file.open("r+b") as opened:
                opened.truncate(file.stat().st_size * 2 // 3)
    else:
        for file in index.rglob("*.json"):
            file.write_text("{")
    asyncio.run(everything_is_there(tmp_path, acknowledged, 0))
