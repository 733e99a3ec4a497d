"""Reports on models, data sets, runs and suites that need no training: cards, estimates, plans, proofs."""
