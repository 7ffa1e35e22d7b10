"""HTTP/2 on asyncio's own sockets: as much of RFC 9113 and RFC 7541 as gRPC needs, for either side."""
