"""Files, processes and terminals: code that any program could use."""
