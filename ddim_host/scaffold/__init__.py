"""Scaffolding of a new plugin: a distribution that works and passes its tests from the start.

names.py      the kinds of plugins, and the names derived from the user's choice
templates/    the files, with one module for each kind of part; each contains a small working part
conflicts.py  checks that the names are free
rendering.py  writes the folder for a name and a kind
"""
