"""Records become rows: which of them count, statistics, tables and the notes under them. Needs no torch."""
