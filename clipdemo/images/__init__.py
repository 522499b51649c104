"""Bytes, files, folders and URLs become images that can be encoded."""
