"""The harness: what to run, the one training loop, what is measured, records and leaderboards."""
