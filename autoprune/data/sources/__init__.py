"""A user's own data: conversation files and data sets, read row by row where they lie."""
