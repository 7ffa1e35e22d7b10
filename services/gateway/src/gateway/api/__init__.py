"""The two doors, REST and typed gRPC, and the calls both lead to."""
