"""Resize and normalise, as every Fréchet-distance package does it: only the weight tables and flags differ."""

from __future__ import annotations

from fastfid.resample._ragged import RaggedImages
from fastfid.resample._resize import resize_normalize

__all__ = ["RaggedImages", "resize_normalize"]
