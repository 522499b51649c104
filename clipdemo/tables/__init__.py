"""Files become tables of image,caption rows."""
