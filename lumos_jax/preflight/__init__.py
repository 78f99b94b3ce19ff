"""Does a config fit a TPU slice, and how fast could it be: without a TPU.

The real train and evaluation steps are compiled for the slice by libtpu on a
CPU host; what is told of memory and of collectives is read off the compiled
program, what is told of time is arithmetic on datasheet rates.
"""
