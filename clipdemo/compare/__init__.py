"""Several checkpoints side by side, over the same images and captions."""
