"""Look inside neural networks: record, learn a dictionary, analyse, browse."""
