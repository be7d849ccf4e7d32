"""Discover plugins, register their parts, and check that the parts honour their contracts."""
