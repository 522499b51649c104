"""Files of checkpoints on the Hugging Face hub: found, downloaded, verified."""
