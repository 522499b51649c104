"""Embeddings become scores, ranks and retrieval metrics. NumPy only."""
