"""Fraud and risk scores over a pretrained backbone (PANTHER, "Downstream").

  LUMOS_CREDIT_DEFAULT_DIR=DIR python -m lumos_jax.main \
    --config=configs/panther.py:data=credit_default
  LUMOS_CREDIT_DEFAULT_DIR=DIR python -m lumos_jax.main \
    --config=configs/risk.py:data=credit_default,backbone=runs/panther_credit_default

Without backbone= context features alone are scored. Data sets: credit_default
(default of credit-card clients), oulad (withdrawal of students), complete_journey
(a coupon redeemed in the week after a purchase), tabformer (card fraud; path=FILE).
"""

from lumos_jax.presets import hybrid


def get_config(arg=None):
  """Arguments: see `hybrid.start`, and

  numbers= (piecewise, periodic), cut= (time, random) and balanced: the paper's
  protocol of fraud is cut=random,balanced, which every result then says.
  """
  more = dict(numbers="piecewise", cut="time", balanced=False)
  c, args = hybrid.start("risk", arg, **more)
  c.model.numbers = args.numbers
  c.data.cut, c.data.balanced = args.cut, args.balanced
  if args.cut != "time":
    c.name += f"_{args.cut}"
  if args.balanced:
    c.name += "_balanced"
  c.lock()
  return c
