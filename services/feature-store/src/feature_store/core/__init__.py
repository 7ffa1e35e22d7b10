"""What is known about users and items: reading it with its age, and taking in news about it."""
