"""Training of dual encoders: loss, pairs, loop, fine-tuning and what is written about a run."""
