"""Checks of models for the registry, and of machines for reliable measurements; both run in other processes."""
