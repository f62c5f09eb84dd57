"""Floor 2: what a model costs: parameters, budgets and floating-point operations."""
