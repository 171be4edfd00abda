"""Faults, done on purpose and counted: `make faults` writes figures/faults.csv; tests/test_faults.py is the short form."""
