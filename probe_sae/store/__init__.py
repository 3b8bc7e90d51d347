"""Rows on disk: write, read, verify."""
