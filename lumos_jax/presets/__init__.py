"""Settings that several configs share: data sets, and forms of models.

A data set (datasets.py) stands once and serves every recipe that can read it; a
form (lumos.py, panther.py) stands once and serves every data set. Sizes stand
beside the keys, in lumos_jax/config.
"""
