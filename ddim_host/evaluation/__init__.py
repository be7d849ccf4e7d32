"""Measuring how good samples are; knows no framework.

moments     mean and covariance of features, gathered batch by batch
distances   Fréchet distance, kernel distance, precision and recall
statistics  what is kept of many images' features, and all measures between two such sets
worker      the evaluator's process: feature extractor, statistics, measures
evaluator   the other end of that process
request     what an evaluation can be asked for
scores      scores with their whole protocol, and the file that keeps them
default_features  the features that are used if the user names none
scoring     the loop over steps, eta and seeds
tables      scores for the terminal, as Markdown and as CSV
paper       the DDIM paper's scores
"""
