"""A small service in this process, for tests of it."""

import asyncio
import contextlib

import fake_events
import httpx
from load_test import saved

from lumos_jax.serving import app, metrics, model, scorer, store


def event(time, item="i3", channel="web", amount=3.5):
  """An event as a client says it; `time` as "01-05" is of the year 2020."""
  time = time if "T" in str(time) else f"2020-{time}T10:00:00Z"
  return {
    "time": time,
    "fields": {"item": item, "channel": channel, "amount": amount},
  }


def made_run(folder, module=fake_events, config=None, users=16, step=3):
  """A run with fresh parameters; returns (workdir, records, `load`ed run)."""
  records, workdir = module.Records(users=users), folder / "run"
  workdir.mkdir(parents=True)
  config = module.config() if config is None else config
  with config.unlocked():  # Not the data set of that name that may lie here.
    config.data.root = str(folder / "data")
  run = saved(workdir, config, records, step)[0]
  run._opened[""] = records
  return str(workdir), records, run


class Client:
  """Asks an application without a network."""

  def __init__(self, application, **headers):
    self._app, self._headers = application, headers

  def __call__(self, method, path, **kw):
    return self.many([(method, path, kw)])[0]

  def many(self, requests):
    """Requests at the same time."""

    async def run():
      # What fails inside must come out as an answer, not as an exception.
      transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
      async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=self._headers
      ) as client:
        asked = [client.request(m, p, **kw) for m, p, kw in requests]
        return await asyncio.gather(*asked)

    return asyncio.run(run())

  def post(self, path, **document):
    """A document's answer: status and content."""
    found = self("POST", path, json=document)
    return found.status_code, found.json()


@contextlib.contextmanager
def serving(workdir, folder, records=None, settings=None, url="", **limits):
  """A client of a service, and its scorer."""
  kept, keys = store.open_store(folder, url, 0.1), store.Keys(folder)
  core = scorer.Scorer(model.Model(workdir, sizes=(1, 8)), kept, keys, settings)
  if records is not None:
    core.fill(records)
  service = app.Service()
  service.scorer = core
  try:
    yield Client(app.make(service, metrics.Metrics(), **limits)), core
  finally:
    core.close()
