"""``equibench doctor``: checks whether the measurements of a machine can be trusted."""
