"""The embedded model: two small towers from PyPI packages and a trained head."""
