"""Files, processes and terminals: everything that would be the same in any program."""
