"""Limits beyond which a value is a typing error, or too large for any machine."""

MAX_SEED = 2**63 - 1
"""Seeds are keys of a 64-bit generator, limited to the range of signed 64-bit integers."""

MAX_STEPS = 10**12
"""Maximum number of steps or epochs; far more than any training needs."""

MAX_TIMESTEPS = 100_000
"""Maximum number of timesteps; far more than any noise schedule has."""

MAX_IMAGE_SIZE = 4096
"""Largest height and width of images in pixels; networks on pixels are not trained beyond it."""

MAX_IMAGES = 1_000_000
"""Maximum number of images in one sampling; far more than anyone needs."""

MAX_GRID_IMAGES = 10_000
"""Maximum number of images in one grid; drawing more would take gigabytes."""
