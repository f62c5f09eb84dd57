"""Floor 2: which units matter, how many to keep where, and the surgery that removes the rest."""
