"""gRPC's event engine is off: no message takes the way through its threads."""

import subprocess
import sys
from typing import Final

CALLS: Final = 200
PROGRAM: Final = f"""
import asyncio, os
from pathlib import Path
import servicekit
import grpc

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        for _ in range({CALLS}):
            try:
                await channel.unary_unary("/nobody/There")(b"", timeout=5)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    woken = 0
    for thread in Path("/proc/self/task").iterdir():
        if (thread / "comm").read_text().strip() == "event_engine":
            counts = dict(line.split(":") for line in (thread / "status").read_text().splitlines())
            woken += int(counts["voluntary_ctxt_switches"])
    await server.stop(0)
    print(woken)

asyncio.run(main())
"""


def test_calls_do_not_wake_the_event_engine() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert int(run.stdout) < CALLS, "each call woke it several times when it was on"
