"""How faithful a dictionary is, beside baselines."""
