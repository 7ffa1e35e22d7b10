"""What every service shares: errors, identity, deadlines, telemetry, and the gRPC server and client."""

import os

# gRPC reads this when it is first imported. Its event engine passes every message through one more thread on the way to
# asyncio's loop: 3% of all processor time of a stack that serves embeddings (ADR 16).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")  # noqa: TID251
