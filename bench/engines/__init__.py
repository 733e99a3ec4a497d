"""How runs are dispatched: local processes."""
