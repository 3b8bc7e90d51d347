"""The model looked into: load it, name its sites, tap and edit them."""
