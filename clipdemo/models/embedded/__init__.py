"""The built-in model: two small towers from PyPI packages and a learned head."""
