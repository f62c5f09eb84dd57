"""What proposes knobs: the samplers, and moves from the front's members."""
