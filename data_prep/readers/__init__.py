"""Readers of raw files: formats, databases, times, and what is wrong in them."""
