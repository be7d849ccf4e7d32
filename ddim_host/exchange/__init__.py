"""Import and export of diffusers pipelines.

source     the files of a pipeline, in a folder or from the Hugging Face Hub
scheduler  conversion of noise schedule, prediction type and clipping
importing  from a pipeline to a run directory
exporting  from a run to a pipeline with a model card
card       the model card of an exported pipeline

None of this requires diffusers.
"""
