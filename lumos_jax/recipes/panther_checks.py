"""Settings of PANTHER's recipe that exclude each other."""

from lumos_jax.objectives import fused, next_event


def check_config(config, schema) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other.

  Args:
    config: Of a run.
    schema: Of its data.
  """
  o, m = config.objective, config.model
  if o.loss not in next_event.LOSSES:
    raise ValueError(
      f"objective.loss = {o.loss!r}; use one of {next_event.LOSSES}"
    )
  fused.check_config(config)
  if o.contrastive_weight and config.train.accumulate > 1:
    raise ValueError(
      f"train.accumulate = {config.train.accumulate} cuts the batch, and "
      "objective.contrastive_weight compares all of its users: set "
      "train.accumulate = 1, or objective.contrastive_weight = 0.0"
    )
  if o.coles_weight and config.train.accumulate > 1:
    raise ValueError(
      f"train.accumulate = {config.train.accumulate} cuts the batch, and "
      "objective.coles_weight compares all of its users: set "
      "train.accumulate = 1, or objective.coles_weight = 0.0"
    )
  if o.coles_weight and (m.profile_as != "none" or m.masked):
    raise ValueError(
      "objective.coles_weight tells users by their events alone, with each slice "
      "read by itself: set model.profile_as = 'none' and model.masked = False "
      f"(now {m.profile_as!r} and {m.masked})"
    )
  used = {bool(o.distill_weight), bool(config.data.teacher)}
  if len(used | {bool(o.distill_width)}) > 1:
    raise ValueError(
      "objective.distill_weight, objective.distill_width and data.teacher belong "
      f"together: set all or none (now {o.distill_weight}, {o.distill_width} and "
      f"{config.data.teacher!r})"
    )
  if o.distill_weight and m.masked:
    raise ValueError("objective.distill_weight needs model.masked = False")
  if m.copy and (
    o.loss == "gbce" or (o.loss == "sampled" and o.correct_target)
  ):
    raise ValueError(
      "model.copy = True mixes probabilities, which this loss has not: set "
      "objective.loss = 'softmax', or 'sampled' with "
      "objective.correct_target = False"
    )
  names = [f.name for f in schema.profile]
  if o.contrastive_weight and m.profile_as == "none":
    raise ValueError(
      "objective.contrastive_weight needs model.profile_as = 'position' or "
      "'token'"
    )
  for name in (*o.contrastive_fields, *o.contrastive_within):
    if name not in names:
      raise ValueError(
        f"objective.contrastive_*: no profile field {name!r}; there are {names}"
      )
  if o.attribute_weight and len(schema.categorical("activity")) < 2:
    raise ValueError(
      "objective.attribute_weight: the events have no other categorical field"
    )
  if o.gap_weight and m.masked:
    raise ValueError("objective.gap_weight needs model.masked = False")
