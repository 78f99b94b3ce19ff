"""Experiments: one small file each; see lumos_jax/config.py for every key."""
