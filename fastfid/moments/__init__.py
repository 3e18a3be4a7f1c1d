"""Means and scatter matrices of features: what is accumulated, merged, saved, and read from statistics files."""

from fastfid.moments.moments import Moments

__all__ = ["Moments"]
