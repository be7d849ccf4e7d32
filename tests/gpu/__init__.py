"""Checks that need a GPU: programs, not tests, for no machine of the CI has one."""
