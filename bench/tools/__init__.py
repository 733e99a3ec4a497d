"""Helpers for all rooms that do not depend on runs: files, schemas, text, the hardware of this machine."""
