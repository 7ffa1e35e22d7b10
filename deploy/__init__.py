"""How the platform is installed, and the programs that derive one way from another."""
