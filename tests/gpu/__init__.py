"""The check of a GPU: `python -m tests.gpu OUT` takes a few minutes and writes one page of results."""
