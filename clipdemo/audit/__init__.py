"""A table of image,caption rows scored end to end."""
