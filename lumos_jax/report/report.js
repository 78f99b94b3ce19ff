// Draws the figures in the page's colours, again when the colours change.
"use strict";
(() => {
  const css = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // A spec's color is "$c0" where the page's colour --c0 is meant, "$c0/20" for
  // 20 % of it.
  const colour = (x) => {
    const [name, percent] = x.slice(1).split("/");
    const value = css("--" + name);
    if (!percent) return value;
    const n = parseInt(value.slice(1), 16);
    return `rgba(${n >> 16},${(n >> 8) & 255},${n & 255},${percent / 100})`;
  };
  const paint = (x, key) => {
    if (typeof x === "string") {
      const painted = key === "color" || key === "fillcolor";
      return painted && x[0] === "$" ? colour(x) : x;
    }
    if (Array.isArray(x)) return x.map((v) => paint(v));
    if (x && typeof x === "object") {
      return Object.fromEntries(
        Object.entries(x).map(([k, v]) => [k, paint(v, k)]));
    }
    return x;
  };
  const axis = () => ({
    gridcolor: css("--grid"), zerolinecolor: css("--line"),
    linecolor: css("--line"), tickcolor: css("--line"), automargin: true,
    title: { standoff: 8 }, exponentformat: "none",
    separatethousands: true,
  });
  const merge = (a, b) => {
    const out = { ...a };
    for (const [k, v] of Object.entries(b)) {
      const both = v && typeof v === "object" && !Array.isArray(v) && out[k];
      out[k] = both ? merge(out[k], v) : v;
    }
    return out;
  };
  const draw = (chart) => {
    const spec = paint(JSON.parse(chart.firstElementChild.textContent));
    const layout = merge({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12,
        color: css("--quiet") },
      margin: { l: 48, r: 12, t: 8, b: 40 }, autosize: true,
      hovermode: "closest",
      hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"),
        font: { color: css("--text") } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom",
        bgcolor: "rgba(0,0,0,0)" },
      xaxis: axis(), yaxis: axis(),
    }, spec.layout || {});
    let canvas = chart.querySelector(".canvas");
    if (!canvas) {
      canvas = document.createElement("div");
      canvas.className = "canvas";
      canvas.style.height = "100%";
      chart.append(canvas);
    }
    Plotly.react(canvas, spec.data, layout, {
      responsive: true, displayModeBar: false,
    });
  };
  const all = () => document.querySelectorAll(".chart").forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  // A folded part has no width: draw it when it opens.
  document.querySelectorAll("details").forEach((d) =>
    d.addEventListener("toggle", () =>
      d.querySelectorAll(".chart").forEach(draw)));
  addEventListener("beforeprint", all);
  all();
})();
