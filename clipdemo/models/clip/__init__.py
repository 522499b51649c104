"""Checkpoints of the CLIP and SigLIP families, through transformers."""
