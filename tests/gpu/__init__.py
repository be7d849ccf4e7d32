"""The check of a GPU: `python -m tests.gpu OUT`, a few minutes, one page with verdicts and figures."""
