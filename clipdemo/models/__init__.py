"""Loads checkpoints by name, as encoders."""
