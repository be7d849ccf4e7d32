"""Many experiments from one command, each in a folder and in processes of its own.

grid.py        which experiments there are
trial.py       the folder of one of them: what it is to be, and how far it is
processes.py   the processes that carry them out
sweeping.py    all of a sweep's folder, and doing what is left
"""
