"""The Fréchet distance between Gaussians: references, distances with their enclosures, and a loss."""
