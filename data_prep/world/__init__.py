"""A world of users whose probabilities are known: data_prep/generate.py."""
