"""Reports on one or more runs, on a single page; no framework is imported.

reported_run the readable contents of a run directory
comparison   settings that differ; results that can and cannot be compared
headline     the main numbers, at the top
pictures     embedded pictures, compressed and within a budget
gallery      grids side by side, with real images for comparison
films        pictures taken during training and during sampling
plots, svg   curves, and how they are drawn
few_steps    curves of optimized timesteps, and of quality against network calls
speed        training speed, as a table
quality      scores of several runs, as tables
next_commands
             suggested next commands for a run, ready to copy
page         the self-contained HTML page
markdown, json_document
             the same contents for documents and for other programs
output       from run directories to a file
watch        a page that follows a run during training
"""
