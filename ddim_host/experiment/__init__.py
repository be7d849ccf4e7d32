"""Assembly of experiments: requests in, matching parts out."""
