"""Rows from records: which records count, statistics, tables and the notes under them. Needs no torch."""
