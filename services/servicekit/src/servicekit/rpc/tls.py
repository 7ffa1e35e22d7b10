"""TlsFiles under its old address; settings imports it from servicekit.tls, or the import would be a cycle."""

from servicekit.tls import TlsFiles

__all__ = ["TlsFiles"]
