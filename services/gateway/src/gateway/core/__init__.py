"""What the gateway decides: whose key it is, what a key may do, and where a request goes."""
