"""The platform as processes of one machine."""
