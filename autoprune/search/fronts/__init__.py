"""Fronts: which points are the best ones, which are believed, and how much area they hold."""
