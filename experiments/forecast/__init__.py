"""Whether a search takes as long as it was forecast to."""
