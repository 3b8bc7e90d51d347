"""Whole jobs: the stages in a row, one summary."""
