"""Measurements of a network and of its process: accuracy, cost, time, equivariance."""
