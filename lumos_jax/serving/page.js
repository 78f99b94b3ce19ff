"use strict";
const by = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SHIFTS = [-21, -14, -7, -3, 0, 3, 7, 14, 21];
const SPAN = 90;  // Days that a track shows.
let about = null, turn = 0;

function el(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;  // Never as HTML.
  for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
  return made;
}

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(path, body) {
  const headers = {};
  if (by("token").value) headers.authorization = "Bearer " + by("token").value;
  const init = {headers};
  if (body) {
    headers["content-type"] = "application/json";
    Object.assign(init, {method: "POST", body: JSON.stringify(body)});
  }
  const answer = await fetch(path, init);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.reason || answer.statusText);
  return found;
}

function table(head, rows) {
  const made = el("table"), top = el("tr"), body = el("tbody");
  for (const h of head) top.append(el("th", h, {scope: "col"}));
  for (const row of rows) {
    const line = el("tr");
    row.forEach((x, i) => line.append(
      typeof x === "number" ? el("td", number(x), {class: "num"})
        : i ? el("td", x) : el("th", x, {scope: "row"})));
    body.append(line);
  }
  const thead = el("thead"), around = el("div", undefined, {class: "scroll"});
  thead.append(top);
  made.append(thead, body);
  around.append(made);
  return around;
}

function number(x) {
  return Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en")
    : Number.isInteger(x) ? String(x) : x.toFixed(4);
}

function words(values) {
  return Object.entries(values)
    .map(([k, v]) => `${k} ${typeof v === "number" ? number(v) : v}`)
    .join(", ");
}

function show(id, ...parts) {
  by(id).querySelector("div").replaceChildren(...parts);
  by(id).hidden = false;
}

function asked() {
  const day = by("day").value.trim(), body = {user_id: by("user").value};
  if (day) body.as_of = /^-?\d+$/.test(day) ? Number(day) : day;
  return body;
}

async function look() {
  const mine = ++turn, user = {user_id: by("user").value};
  for (const id of ["next", "forecast", "why", "whatif", "history"])
    by(id).hidden = true;
  by("state").textContent = "…";
  by("state").className = "";
  try {
    about = await ask("/about");
    const past = await ask("/history", {...user, last: 50});
    if (mine !== turn) return;
    by("about").textContent = `recipe ${about.recipe}, data ${about.data}, ` +
      `checkpoint of step ${about.model.step}`;
    const profile = words(past.profile);
    const rows = past.events.map(e => [String(e.time), words(e.values)]);
    show("history",
      el("p", `${past.total} rows${profile ? "; " + profile : ""}`),
      table(["time", "what"], rows));
    if (about.answers.includes("next")) {
      const found = await ask("/next", {...user, k: 10});
      const list = found.next.map(
        x => [String(x.rank), words(x.value), x.probability]);
      show("next", table(["rank", "event", "probability"], list));
    }
    if (about.answers.includes("forecast")) {
      const found = await ask("/forecast", asked());
      show("forecast",
        el("p", `as of ${found.as_of}; ${about.horizon_days} days ahead at most`),
        forecasts(found.forecasts));
      if (about.calendar.length) await whatIf(mine);
    }
    if (about.answers.includes("why")) await why(mine);
    by("state").textContent = "";
  } catch (error) {
    if (mine !== turn) return;
    by("state").textContent = error.message;
    by("state").className = "wrong";
  }
}

function forecasts(found) {
  return table(["task", "kind", "forecast", "80 % interval"],
    Object.entries(about.tasks).map(([name, kind]) => {
      const low = found[name + "_low"], high = found[name + "_high"];
      return [name, kind === "binary" ? "probability" : "amount", found[name],
        low === undefined ? "" : `${number(low)} to ${number(high)}`];
    }));
}

async function why(mine) {
  const parts = [];
  for (const task of Object.keys(about.tasks)) {  // One waits for another.
    const found = await ask("/why", {...asked(), task, last: 10});
    if (mine !== turn) return;
    const p = 1 / (1 + Math.exp(-found.score));
    const rows = found.events.map(e => [String(e.time), words(e.values),
      (e.moved > 0 ? "+" : "") + e.moved.toFixed(4)]);
    parts.push(el("h3", task),
      el("p", `score ${p.toFixed(4)}, not calibrated; ` +
        `${found.read} events were left out one by one`),
      table(["time", "what", "moved"], rows));
  }
  show("why", ...parts);
}

async function whatIf(mine) {
  const {entries} = await ask("/calendar", asked());
  if (mine !== turn || !entries.length) return;
  by("tracks").replaceChildren(
    ...entries.filter(e => e.start < SPAN).slice(0, 8).map(track));
  by("whatif").hidden = false;
  await curves(entries[0], 0);
}

function track(entry) {
  const {start, group, ...said} = entry.match;
  const name = words(said) || "event";
  const made = el("div", undefined, {class: "track"});
  const bar = el("div", `${name}, from ${entry.start_day}`, {
    class: "bar", tabindex: "0", role: "slider", "aria-valuemin": SHIFTS[0],
    "aria-valuemax": SHIFTS.at(-1), "aria-valuenow": 0,
    "aria-label": `days that ${name} is moved`});
  let days = 0, from = null;
  const place = () => {
    const percent = d => `${Math.max(0, 100 * d / SPAN)}%`;
    bar.style.left = percent(Math.max(entry.start, 0) + days);
    bar.style.width = percent(entry.end - Math.max(entry.start, 0));
    bar.setAttribute("aria-valuenow", days);
    bar.title = days ? `moved by ${days} days` : "as planned";
  };
  const move = to => {
    days = Math.max(SHIFTS[0], Math.min(SHIFTS.at(-1), Math.round(to)));
    place();
  };
  bar.addEventListener("pointerdown", e => {
    from = {x: e.clientX, days};
    bar.setPointerCapture(e.pointerId);
  });
  bar.addEventListener("pointermove", e => {
    if (from)
      move(from.days + (e.clientX - from.x) / made.clientWidth * SPAN);
  });
  bar.addEventListener("pointerup", () => {
    from = null;
    curves(entry, days);
  });
  bar.addEventListener("keydown", e => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[e.key];
    if (!step) return;
    e.preventDefault();
    move(days + step);
    curves(entry, days);
  });
  place();
  made.append(bar);
  return made;
}

let drawing = 0;
async function curves(entry, days) {
  const mine = ++drawing;
  const shifts = [...new Set([...SHIFTS, days])].sort((a, b) => a - b);
  try {
    const found = await Promise.all(shifts.map(n => ask("/forecast", {
      ...asked(), edits: n ? [{op: "move", match: entry.match, days: n}] : []})));
    if (mine !== drawing) return;
    const at = (x, task) => (x.edited && task in x.edited ? x.edited
      : x.forecasts)[task];
    by("curves").replaceChildren(...Object.keys(about.tasks).map(task =>
      curve(task, shifts, found.map(x => at(x, task)), days)));
  } catch (error) {
    by("state").textContent = error.message;
    by("state").className = "wrong";
  }
}

function curve(task, shifts, values, days) {
  const w = 320, h = 180, left = 52, low = Math.min(...values);
  const span = Math.max(...values) - low || Math.abs(low) || 1;
  const x = n => left + (n - shifts[0]) / (shifts.at(-1) - shifts[0]) *
    (w - left - 12);
  const y = v => h - 32 - (v - low) / span * (h - 56);
  const made = svg("svg", {viewBox: `0 0 ${w} ${h}`, role: "img",
    "aria-label": `${task} by days that the event is moved`});
  for (const v of [low, low + span]) {
    made.append(svg("line", {x1: left, x2: w - 12, y1: y(v), y2: y(v),
      stroke: "var(--grid)"}));
    made.append(svg("text", {x: left - 6, y: y(v) + 4, "text-anchor": "end"},
      number(v)));
  }
  for (const n of [shifts[0], 0, shifts.at(-1)])
    made.append(svg("text", {x: x(n), y: h - 10,
      "text-anchor": n > 0 ? "end" : n ? "start" : "middle"},
      n > 0 ? `+${n} d` : n ? `${n} d` : "planned"));
  made.append(svg("polyline", {fill: "none", stroke: "var(--c0)",
    "stroke-width": 2,
    points: shifts.map((n, i) => `${x(n)},${y(values[i])}`).join(" ")}));
  const now = values[shifts.indexOf(days)], plan = values[shifts.indexOf(0)];
  made.append(svg("circle", {cx: x(days), cy: y(now), r: 5, fill: "none",
    stroke: "var(--c1)", "stroke-width": 2.5}));
  const figure = el("figure"), caption = el("figcaption");
  caption.append(el("b", task), ` ${number(plan)} as planned` +
    (days ? `, ${number(now)} moved by ${days} days` : ""));
  figure.append(caption, made);
  return figure;
}

by("ask").addEventListener("submit", e => { e.preventDefault(); look(); });
// A link may name the user behind "#", which no server and no log sees.
const named = decodeURIComponent(location.hash.slice(1)).split("|");
if (named[0]) {
  [by("user").value, by("day").value] = [named[0], named[1] || ""];
  look();
}
