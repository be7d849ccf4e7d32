"""Six small plugins for ddim-host, each a module that provides a different kind of part."""
