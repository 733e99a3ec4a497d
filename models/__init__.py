"""Registered architectures, one file each, and the layers that they are built from."""
