"""How the gateway reaches its key store and the services behind it."""
