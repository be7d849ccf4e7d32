"""Six small plugins for ddim-host, each a module with a different kind of part."""
