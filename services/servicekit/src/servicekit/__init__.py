"""What every service shares: errors, identity, deadlines, telemetry, and the gRPC server and client."""
