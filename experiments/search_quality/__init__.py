"""Does the search find more than random search, a grid and a rule, for the same cost?"""
