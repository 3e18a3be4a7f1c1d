"""Means and scatter matrices of batches added to running ones: the engines behind Moments and GroupedMoments."""
