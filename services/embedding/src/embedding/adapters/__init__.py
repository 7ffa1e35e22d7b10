"""How embedding reaches others."""
