"""Scores through lmms-eval, retention with its intervals, and a cheap proxy."""
