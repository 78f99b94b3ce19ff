"""lumos_jax: a large user model in JAX."""

__version__ = "0.1.0"
