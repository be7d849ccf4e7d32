"""A new plugin: a distribution that works, and passes its own tests, from the first moment.

names.py      what can be begun, and what it is called
templates/    the files, and one module for each kind of part; each holds a small real part to begin from
conflicts.py  whether the names are free
rendering.py  from a name and a kind to a folder
"""
