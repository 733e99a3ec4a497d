"""Checks of models for the registry, and of machines for reliable figures; both run in other processes."""
