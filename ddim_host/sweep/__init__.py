"""Many experiments from one command, each in processes of its own.

grid.py        which experiments there are
journal.py     what was done with each, on disk
commands.py    the processes that do it
sweeping.py    the experiments one after the other
"""
