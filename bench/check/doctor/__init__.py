"""``equibench doctor``: checks whether the figures of a machine can be trusted."""
