"""Measurements against an alternative, each started by one command. They print figures, without verdicts."""
