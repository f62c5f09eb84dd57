"""The knob space as it is written: its knobs, its cells, and the rules between them."""
