"""General-purpose code for files, processes and terminals, independent of diffusion."""
