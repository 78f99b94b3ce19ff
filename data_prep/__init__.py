"""Raw events in, ArrayRecord shards out: python -m data_prep --help."""

from .inputs import InputError, Inputs
from .run import prepare

__all__ = ["InputError", "Inputs", "prepare"]
