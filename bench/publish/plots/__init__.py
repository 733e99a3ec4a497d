"""Plots of boards and of families of boards, and their style."""
