"""What to run: budgets, recipes, suites, specifications of runs, seeds. Needs no torch."""
