"""Experiments: one small file each; lumos_jax/config has every key."""
