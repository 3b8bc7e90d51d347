"""Dictionaries: architectures, sparse kernels, checkpoint, metrics."""
