"""What is true of each user at an origin: exact, from its state of that morning.

Given rates and the state (active, dormant, churned), days are independent, so a
forward pass over the horizon gives probabilities without a simulation. A model
sees events, not the state: it cannot reach these, only come near.
"""

from collections.abc import Mapping

import numpy as np

from . import block as block_lib
from . import spec

TASKS = ("active", "active7", "redeem", "visits", "spend")


def scenarios(block: block_lib.Block, entries, origin: int) -> dict:
  """{scenario: {task: float64 [B]}} over [origin, origin + HORIZON_DAYS).

  Scenarios: "" as it was; "with_KIND" and "without_KIND": each user had the
  campaigns of that kind from the origin on, or none of them.
  """
  out = {"": _forward(block, entries, origin, block.invited)}
  for kind, how in spec.ASSIGNMENTS.items():
    if how == "everyone":
      continue
    mine = np.asarray([e.kind == kind for e in entries])[:, None]
    for word, value in (("with", True), ("without", False)):
      invited = np.where(mine, value, block.invited)
      out[f"{word}_{kind}"] = _forward(block, entries, origin, invited)
  return out


def _forward(block, entries, origin: int, invited) -> Mapping[str, np.ndarray]:
  n = len(block.segment)
  coupons = np.asarray([e.kind == "coupon" for e in entries])
  before = block.state[origin - 1] if origin else np.zeros(n, np.int8)
  start = np.eye(3)[before]  # [B, states]
  stay = start.copy()  # Where the user is.
  none, none7 = start.copy(), None  # And has not visited yet.
  unredeemed = start.copy()
  move = _transitions(block)
  visits = np.zeros(n)
  for d in range(origin, origin + spec.HORIZON_DAYS):
    on = block.running[d]
    log_lift = (block.lift[on, None] * invited[on]).sum(0)
    rate = np.exp(block.log_rate[d] + log_lift * block.responsiveness)
    p = -np.expm1(-rate[:, None] * block_lib._SCALE)  # [B, states]
    coupon = invited[on & coupons].any(0)
    step = lambda x: np.einsum("bs,bst->bt", x, move)
    stay, none, unredeemed = step(stay), step(none), step(unredeemed)
    visits += (stay * p).sum(1)
    none *= 1 - p
    unredeemed *= 1 - p * (coupon * block.redeems)[:, None]
    if d - origin == 6:
      none7 = none.sum(1)
  amount = block.taste @ spec.PRICES
  amount = amount * np.exp(block.price + spec.AMOUNT_SPREAD**2 / 2)
  return {
    "active": 1 - none.sum(1),
    "active7": 1 - none7,
    "redeem": 1 - unredeemed.sum(1),
    "visits": visits,
    "spend": visits * (1 + block.items) * amount,
  }


def _transitions(block) -> np.ndarray:
  """[B, from, to] of a day; block._live draws the same."""
  churn, n = block.churn, len(block.churn)
  out = np.zeros((n, 3, 3))
  for a, b, p in ((0, 1, spec.FALL_DORMANT), (1, 0, spec.WAKE)):
    out[:, a, b] = p
    out[:, a, 2] = churn
    out[:, a, a] = 1 - p - churn
  out[:, 2, 2] = 1.0
  return out
