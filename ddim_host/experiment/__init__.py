"""From what was asked for to parts that fit together."""
