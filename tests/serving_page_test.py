"""The service's page in a browser, where one is here."""

import os
import pathlib
import re
import shutil
import subprocess
import threading
import time

import fake
import fake_events
import pytest

pytest.importorskip("fastapi", reason='needs pip install -e ".[serve]"')

import serving  # noqa: E402
import tiny_hybrid  # noqa: E402
import uvicorn  # noqa: E402

from lumos_jax.serving import model as model_lib  # noqa: E402
from lumos_jax.serving import page  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# Where screenshots go that somebody wants to look at.
SHOTS = os.environ.get("LUMOS_SCREENSHOTS", "")


def test_the_page_is_one_file_that_loads_nothing():
  text = page.page().decode()
  assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
  assert "https://" not in text and "innerHTML" not in text
  assert not re.search(r"\ssrc=|\shref=|@import|url\(", text)


@pytest.mark.skipif(
  BROWSER is None, reason="no chromium here: apt-get install it"
)
@pytest.mark.parametrize(
  "module,config",
  [
    (fake, None),
    (fake_events, None),
    (fake_events, tiny_hybrid.config()),
    pytest.param(
      fake_events, tiny_hybrid.config(unit="event"), marks=pytest.mark.slow
    ),
  ],
  ids=["days", "events", "hybrid", "hybrid_of_events"],
)
def test_the_page_shows_a_user(module, config, tmp_path, monkeypatch):
  workdir, records, _ = serving.made_run(tmp_path, module, config)
  monkeypatch.setattr(
    model_lib.Model,
    "_data",
    lambda self, _: (records.schema.last_day, records.calendar),
  )
  user = max(records.users, key=lambda u: len(u["day"]))["key"]
  with serving.serving(workdir, tmp_path / "store", records) as (client, _):
    # Compiled before the browser's clock runs.
    name, day = user, "112" if module is fake else ""
    ask = dict(user_id=user)
    shot = "days" if module is fake else "events"
    path = "/forecast" if module is fake else "/next"
    if config is not None:
      path, shot = "/why", f"hybrid_{config.data.unit}"
    _, answer = client.post(path, **ask)
    config = uvicorn.Config(client._app, port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
      time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    text = shown(f"http://127.0.0.1:{port}/#{name}|{day}", tmp_path, shot)
    server.should_exit = True
    thread.join()
  assert f"{len(user and records.users)}" and 'class="wrong"' not in text
  assert "<h2>History</h2>" in text
  history = text[text.index("<h2>History</h2>") :]
  assert history.count("<tr>") > 5
  explained = re.search(r'<section id="why">.*?</section>', text, re.DOTALL)
  assert bool(explained) == shot.startswith("hybrid")
  if explained:
    assert "<h3>buys</h3>" in explained[0]
    for x in answer["events"][:10]:
      assert f">{x['moved']:+.4f}<" in explained[0]
    assert explained[0].count(f"item {answer['events'][0]['values']['item']}")
    assert '<section id="next" hidden="">' in text
  elif module is fake:
    assert "churn" in text and "<polyline" in text and "<circle" in text
    assert 'role="slider"' in text and "type sale" in text
  else:
    assert "Next events" in text and "item i" in text
    assert text.index("<h2>Next events</h2>") and "probability" in text


def shown(address, tmp_path, shot):
  """The page's elements once it has asked for all it shows."""
  flags = [
    *("--headless=new", "--no-sandbox", "--disable-gpu"),
    *("--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"),
    *("--virtual-time-budget=60000", "--window-size=1100,1800"),
  ]
  if SHOTS:
    path = pathlib.Path(SHOTS) / f"page_{shot}.png"
    subprocess.run(
      [BROWSER, *flags, f"--screenshot={path}", address],
      capture_output=True,
      timeout=120,
      check=True,
    )
  found = subprocess.run(
    [BROWSER, *flags, "--dump-dom", address],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  return found.stdout
