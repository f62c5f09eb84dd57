"""Choosing one point of finished searches under constraints, and saying why the others lost."""
