"""Does a config fit a TPU slice, and how fast could it be: without a TPU.

The real train and evaluation steps are compiled for the slice by libtpu on a
CPU host; memory and collectives are read off the compiled
program, times are arithmetic on datasheet rates.
"""
