"""Fuzzing of every reader of the host with damaged files; see `python -m tests.fuzz --help`."""
