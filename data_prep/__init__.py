"""Raw events in, ArrayRecord shards out: python -m data_prep --help."""

from data_prep.inputs import InputError, Inputs
from data_prep.run import prepare

__all__ = ["InputError", "Inputs", "prepare"]
