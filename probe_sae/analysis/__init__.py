"""One pass over codes: what fires each feature, and how features hang together."""
