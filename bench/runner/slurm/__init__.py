"""The runs of a suite get done on a cluster: submission, tasks, status."""
