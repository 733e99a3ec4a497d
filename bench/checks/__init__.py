"""The acceptance test of a contribution, check by check; `bench.check` runs it in a process of its own."""
