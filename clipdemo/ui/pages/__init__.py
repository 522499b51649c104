"""One file a page; each takes the workspace's ``View`` and shows it through one lens."""
