"""Everything that the host reads, given files that nobody would write: see `python -m tests.fuzz --help`."""
