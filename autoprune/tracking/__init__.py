"""What a search leaves behind for people: records, plots, tables, and MLflow runs.

Knows plain data only. `records` is what the search fills and everyone reads; `plots` and
`terminal` show it; `Tracker` writes it to MLflow without holding the search up; `links` and
`ui` open the MLflow UI where it is worth looking.
"""
