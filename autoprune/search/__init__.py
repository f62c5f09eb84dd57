"""Search: what to try, when to stop, and which points to believe."""
