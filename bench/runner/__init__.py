"""The runs of a suite get done: which are missing, what is refused, and the processes that do them."""
