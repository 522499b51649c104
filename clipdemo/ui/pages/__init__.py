"""One module or folder per page; each shows the workspace's ``View`` in its own way."""
