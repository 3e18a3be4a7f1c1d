"""Distances between rows of feature matrices, decided exactly: nearest neighbours, and who lies in whose ball.

A tile of distances is found by a product with a proven bound on its error; what that leaves open is the direct float64
sum's to say. Nothing of the size of a whole distance matrix is ever held. Tensors come checked: [n, d] of 16, 32 or
64-bit floats, finite, on a device that has float64.
"""
