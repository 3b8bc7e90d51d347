"""Inputs to rows: recipes, batches, capture."""
