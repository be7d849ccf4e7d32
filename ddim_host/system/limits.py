"""Numbers beyond which an input is a slip of the finger, or nothing that a machine could do."""

MAX_SEED = 2**63 - 1
"""Seeds are keys of a generator of 64 bits; the half of them that every number format holds."""

MAX_STEPS = 10**12
"""More steps or epochs than anybody will ever take."""

MAX_TIMESTEPS = 100_000
"""More timesteps than any noise schedule has."""

MAX_IMAGE_SIZE = 4096
"""Height and width in pixels beyond which nobody trains a network on pixels."""

MAX_IMAGES = 1_000_000
"""More images than anybody samples at a time."""

MAX_GRID_IMAGES = 10_000
"""More images than anybody looks at in one picture; it would also take gigabytes to draw."""
