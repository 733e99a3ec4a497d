"""The plan of a comparison: budgets, recipes, suites, specifications of runs, seeds. Needs no torch."""
