"""Names of checkpoints become encoders."""
