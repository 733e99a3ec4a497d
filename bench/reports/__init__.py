"""What is said of a model, a data set, a run or a suite without training: cards, estimates, plans, proofs."""
