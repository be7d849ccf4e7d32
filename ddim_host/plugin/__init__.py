"""Find plugins, name their parts, and check that they keep their contracts."""
