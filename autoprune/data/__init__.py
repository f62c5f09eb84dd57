"""Samples, nested data fractions, and the encoding of conversations into tensors."""
