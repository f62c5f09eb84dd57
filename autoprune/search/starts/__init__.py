"""What a search tries first: the usual recipes, our own starting points, earlier searches."""
