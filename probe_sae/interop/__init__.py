"""Other libraries' checkpoints."""
