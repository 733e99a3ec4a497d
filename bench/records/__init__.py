"""What is kept, and where: records, outcomes, calibrations, verdicts, and whether they are current. Needs no torch."""
