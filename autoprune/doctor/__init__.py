"""What this machine is, what keeps a search from running on it, and how much it can search."""
