"""Training origins that make no sense are named, with both keys."""

import fake
import pytest

from lumos_jax.data import pipeline
from lumos_jax.data import tasks as tasks_lib


@pytest.mark.parametrize(
  "first,last,words",
  [
    (85, 84, r"train_origin_first = 85 is after data.train_origin_last = 84"),
    (
      134,
      400,
      r"train_origin_first = 134 and data.train_origin_last = 400 lie outside "
      r"the data, which span days 0 to 139; .* takes 7 days",
    ),
    (-90, -1, r"train_origin_first = -90 and data.train_origin_last = -1 lie"),
  ],
)
def test_training_origins_are_checked(first, last, words):
  c = fake.config(
    data__train_origin_first=first,
    data__train_origin_last=last,
    data__validation_origin=999,
    data__test_origin=999,
  )
  tasks = tasks_lib.from_config(c.tasks)
  with pytest.raises(ValueError, match=words):
    pipeline.train_iterator(fake.Records(), c.data, tasks, 4, 0)


def test_an_origin_whose_labels_end_with_the_data_is_allowed():
  c = fake.config(
    data__train_origin_first=133,
    data__train_origin_last=133,
    data__validation_origin=999,
    data__test_origin=1099,
  )
  tasks = tasks_lib.from_config(c.tasks)
  pipeline.check_config(c.data, tasks, fake.Records().schema)
