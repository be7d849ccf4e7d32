"""Configuration and assembly of experiments."""
