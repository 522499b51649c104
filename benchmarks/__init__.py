"""Measurements beside an alternative, each run with one command; figures, never verdicts."""
