"""What a service does when more is asked of it than it can do: who runs, who waits, who is next, who is turned away."""
