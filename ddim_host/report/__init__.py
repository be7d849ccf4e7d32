"""Reports on one run or several, as one page; imports no framework.

reported_run the readable content of a run directory
comparison   settings that differ; results that can and cannot be compared
headline     the few numbers at the top
pictures     embedded pictures, compressed and within a budget
gallery      grids side by side, and real images beside them
films        pictures during training, and during sampling
plots, svg   the curves, and their drawing
few_steps    curves of optimized timesteps, and of quality against network calls
speed        training speed, as a table
quality      scores of several runs, as tables
next_commands
             commands to copy, for the next steps with a run
page         the self-contained HTML page
markdown, json_document
             the same content for authors and for programs
output       from run directories to a file
watch        a page that follows a run while it trains
"""
