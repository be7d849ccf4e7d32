"""Published pipelines of diffusers as runs, and runs as such pipelines.

source     the files of a pipeline, in a folder or from the Hugging Face hub
scheduler  noise schedule, prediction type and clipping, in either's terms
importing  from a pipeline to a run directory
exporting  from a run to a pipeline with its card
card       the card of an exported pipeline

Diffusers is not needed for any of it.
"""
