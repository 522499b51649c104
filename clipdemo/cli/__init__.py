"""The command line: arguments in, files and exit codes out. With ``ui`` the only place that prints."""
