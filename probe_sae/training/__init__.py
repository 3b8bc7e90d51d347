"""Learn a dictionary from rows."""
