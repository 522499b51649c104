"""``python -m clipdemo``."""

from clipdemo.cli import main

main()
