"""Runs the command line: ``python -m clipdemo``."""

from clipdemo.cli.app import main

main()
