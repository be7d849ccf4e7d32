"""Runs side by side, on one page; knows no framework.

reported_run everything that a run directory holds, as far as it is whole
comparison   what differs, what may be compared and what may not
plots, svg   which curves there are, and how they are drawn
speed        how fast runs trained, as a table
quality      scores of several runs, as tables
page         the self-contained HTML page
markdown, json_document
             the same for people who write and for programs
output       from run directories to a file
"""
