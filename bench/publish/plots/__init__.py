"""Plots of boards and of families of boards, and how they look."""
