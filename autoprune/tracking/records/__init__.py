"""The plain data of a search, a module a concept.

All records are frozen, refuse unknown fields, and survive a round trip through JSON.
"""
