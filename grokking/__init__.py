"""Measure how long small networks take to generalise after they have memorised, optimizer by optimizer."""

__version__ = "0.1.0"
