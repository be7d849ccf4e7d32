"""Many experiments from one command, each with its own folder and processes.

grid.py        the experiments of a sweep
trial.py       the folder of one experiment, and its remaining commands
processes.py   the processes that run the commands
sweeping.py    the folder of a sweep, and its remaining work
"""
