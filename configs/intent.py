"""From clicks to intent: vectors of sessions (arXiv 2606.26277).

  LUMOS_WIKISPEEDIA_DIR=DIR python -m lumos_jax.main --config=configs/intent.py
  python -m lumos_jax.main --config=intent:path=DIR,texts=minilm

Then, for `lumos sessions` and taxonomies, see docs/intent.md.
"""

from lumos_jax.presets import intent


def get_config(arg=None):
  """Arguments: see `intent.start`."""
  c = intent.start(arg)
  c.lock()
  return c
