"""Evaluation of sample quality, independent of frameworks.

moments     mean and covariance of features, accumulated batch by batch
distances   Fréchet distance, kernel distance, precision and recall
statistics  statistics of the features of many images, and the measures that compare two sets
worker      the evaluator's process: feature extractor, statistics, measures
evaluator   a proxy for that process
request     the options of an evaluation
scores      scores with their complete protocol, and the file that stores them
default_features  the features used by default
scoring     the loop over steps, eta and seeds
tables      scores as text, Markdown and CSV
paper       the DDIM paper's scores
"""
