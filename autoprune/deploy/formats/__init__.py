"""Formats that a checkpoint is exported to: a module each, and the table of them."""
