"""Limits beyond which a value is a mistake, or too large for any machine."""

MAX_SEED = 2**63 - 1
"""Largest seed: seeds are keys of a 64-bit generator, but must fit into signed 64-bit integers."""

MAX_STEPS = 10**12
"""Maximum number of steps or epochs; far more than any training needs."""

MAX_TIMESTEPS = 100_000
"""Maximum number of timesteps; far more than any noise schedule has."""

MAX_IMAGE_SIZE = 4096
"""Maximum height and width of images in pixels; pixel-space networks are not trained on larger ones."""

MAX_IMAGES = 1_000_000
"""Maximum number of images to sample at a time; far more than any evaluation needs."""

MAX_GRID_IMAGES = 10_000
"""Maximum number of images in one grid; drawing more would take gigabytes."""

MAX_SAMPLER_STATE_BYTES = 32 << 20
"""Maximum size of a timestep sampler's state; thousands of numbers per timestep."""
