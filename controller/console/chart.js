// A chart of the last ten minutes in SVG: lines, steps, stacked steps, and a limit.

import {h, mark, reconcile, say, svg} from "./dom.js";
import {UNKNOWN, moment} from "./format.js";

export const WINDOW_S = 600;
const HEIGHT = 132;
const PAD = {top: 8, right: 6, bottom: 20, left: 46};
const GAP_S = 3.5; // samples further apart are not joined: nothing was known between them
const KEY_STEP_S = 10;

/**
 * spec: `{title, format, tick, series: [{key, label, kind, tone}], limit: {label, of(view)},
 * whole: counts only}`, kind one of line, dashed, step, stack.
 * cursor: `{at: seconds before now or null, moved()}`, shared by the charts of a service.
 */
export function chart(spec, cursor) {
  const plot = svg("svg", {class: "plot", role: "img", tabindex: "0", height: HEIGHT});
  const grid = svg("g", {class: "grid"});
  const limit = svg("path", {class: "limit"});
  const rule = svg("path", {class: "rule"});
  const paths = spec.series.map((one) => svg("path", {class: `${one.kind} tone-${one.tone}`}));
  plot.append(grid, ...paths, limit, rule);
  const legend = h("ul", {class: "legend"});
  const when = h("span", {class: "when"});
  const element = h("figure", {class: "chart"},
    h("figcaption", {}, h("span", {class: "title"}, spec.title), when), plot, legend);
  followPointer(plot, cursor);

  function draw(view, columns, nowS) {
    const width = Math.max(plot.clientWidth, 160);
    const bound = spec.limit ? spec.limit.of(view) : null;
    const layers = stacked(spec.series, columns);
    const top = ceiling(layers, columns.at_s, nowS, bound, spec.whole);
    const place = {
      x: (s) => PAD.left + (1 - (nowS - s) / WINDOW_S) * (width - PAD.left - PAD.right),
      y: (value) => PAD.top + (1 - value / top.high) * (HEIGHT - PAD.top - PAD.bottom),
      right: width - PAD.right,
    };
    mark(plot, "viewBox", `0 0 ${width} ${HEIGHT}`);
    drawGrid(grid, top, place, width, spec.tick);
    layers.forEach((layer, i) => mark(paths[i], "d", outline(layer, columns.at_s, nowS, place)));
    mark(limit, "d", bound == null ? "" : `M${PAD.left} ${place.y(bound)}H${place.right}`);
    const at = cursor.at == null ? nowS : nowS - cursor.at;
    const x = place.x(at);
    mark(rule, "d", cursor.at == null ? "" : `M${x} ${PAD.top}V${HEIGHT - PAD.bottom}`);
    say(when, cursor.at == null ? "" : moment(cursor.at));
    drawLegend(legend, spec, columns, nearest(columns.at_s, at), bound);
    mark(plot, "aria-label", `${spec.title}, last 10 minutes. ${legend.textContent}`);
  }
  return {element, draw};
}

/** Each series with its values; a stacked one stands on those before it. */
function stacked(series, columns) {
  let floor = null;
  return series.map((one) => {
    const values = columns[one.key] ?? [];
    if (one.kind !== "stack") return {kind: one.kind, values};
    const base = floor ?? values.map(() => 0);
    floor = values.map((value, i) => base[i] + (value ?? 0));
    return {kind: one.kind, values: floor, base};
  });
}

/** A round upper end of the axis and the distance of its ticks. */
function ceiling(layers, times, nowS, bound, whole) {
  let most = bound ?? 0;
  for (const {values} of layers) {
    values.forEach((value, i) => {
      if (value != null && nowS - times[i] <= WINDOW_S) most = Math.max(most, value);
    });
  }
  most = most > 0 ? most * 1.08 : 1;
  const size = 10 ** Math.floor(Math.log10(most / 3));
  let step = [1, 2, 5, 10].map((n) => n * size).find((n) => most / n <= 5.2);
  if (whole) step = Math.max(1, Math.ceil(step));
  return {high: whole ? Math.ceil(most / step) * step : most, step};
}

function drawGrid(grid, top, place, width, tick) {
  const ticks = [];
  for (let i = 0; i * top.step <= top.high * 1.0001; i += 1) ticks.push(i * top.step);
  const rows = ticks.map((value) => ({
    key: `y${value}`, text: value === 0 ? "0" : tick(value), anchor: "end",
    x: PAD.left - 6, y: place.y(value) + 3.5,
    d: `M${PAD.left} ${place.y(value)}H${place.right}`,
  }));
  const middle = (PAD.left + place.right) / 2;
  rows.push(
    {key: "x10", text: "−10 min", anchor: "start", x: PAD.left, y: HEIGHT - 4, d: ""},
    {key: "x5", text: "−5 min", anchor: "middle", x: middle, y: HEIGHT - 4, d: ""},
    {key: "x0", text: "now", anchor: "end", x: width - PAD.right, y: HEIGHT - 4, d: ""},
  );
  reconcile(grid, rows, (row) => row.key, () => {
    const [line, label] = [svg("path"), svg("text")];
    return {element: svg("g", {}, line, label), update(row) {
      mark(line, "d", row.d);
      mark(label, "x", String(row.x));
      mark(label, "y", String(row.y));
      mark(label, "text-anchor", row.anchor);
      say(label, row.text);
    }};
  });
}

/** The path of a layer: one run per stretch of known values. */
function outline(layer, times, nowS, place) {
  return runs(layer.values, times, nowS).map(([from, to]) => {
    const steps = layer.kind === "step" || layer.kind === "stack";
    const upper = trace(layer.values, times, from, to, place, steps, "M");
    if (layer.kind !== "stack") return upper;
    return `${upper}${back(layer.base, times, from, to, place)}Z`;
  }).join("");
}

function runs(values, times, nowS) {
  const found = [];
  let from = null;
  for (let i = 0; i <= values.length; i += 1) {
    const here = i < values.length && values[i] != null && nowS - times[i] <= WINDOW_S;
    const torn = here && from !== null && times[i] - times[i - 1] > GAP_S;
    if (from !== null && (!here || torn)) {
      found.push([from, i - 1]);
      from = null;
    }
    if (here && from === null) from = i;
  }
  return found;
}

function trace(values, times, from, to, place, steps, first) {
  let d = "";
  for (let i = from; i <= to; i += 1) {
    const [x, y] = [place.x(times[i]).toFixed(1), place.y(values[i]).toFixed(1)];
    d += i === from ? `${first}${x} ${y}` : steps ? `H${x}V${y}` : `L${x} ${y}`;
  }
  return from === to ? `${d}h1` : d;
}

function back(base, times, from, to, place) {
  let d = `V${place.y(base[to]).toFixed(1)}`;
  for (let i = to - 1; i >= from; i -= 1) {
    d += `V${place.y(base[i]).toFixed(1)}H${place.x(times[i]).toFixed(1)}`;
  }
  return d;
}

/** Index of the sample at a moment; -1 where there is none. */
function nearest(times, at) {
  let best = -1;
  times.forEach((s, i) => {
    if (Math.abs(s - at) <= GAP_S && (best < 0 || Math.abs(s - at) <= Math.abs(times[best] - at))) {
      best = i;
    }
  });
  return best;
}

function drawLegend(legend, spec, columns, index, bound) {
  const rows = spec.series.map((one) => ({
    label: one.label, tone: one.tone, kind: one.kind,
    text: index < 0 ? UNKNOWN : spec.format(columns[one.key][index]),
  }));
  if (spec.limit) {
    rows.push({label: spec.limit.label, tone: "limit", kind: "limit",
      text: bound == null ? UNKNOWN : spec.format(bound)});
  }
  reconcile(legend, rows, (row) => row.label, (row) => {
    const value = h("b");
    const swatch = h("i", {class: `swatch ${row.kind} tone-${row.tone}`, "aria-hidden": "true"});
    return {element: h("li", {}, swatch, `${row.label} `, value, " "),
      update: (now) => say(value, now.text)};
  });
}

/** Read the past under the pointer, or with the arrow keys. */
function followPointer(plot, cursor) {
  const move = (at) => {
    cursor.at = at == null ? null : Math.min(Math.max(at, 0), WINDOW_S);
    cursor.moved();
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = (event.clientX - box.left - PAD.left) / (box.width - PAD.left - PAD.right);
    move(Math.round((1 - share) * WINDOW_S));
  });
  plot.addEventListener("pointerleave", () => move(null));
  plot.addEventListener("blur", () => move(null));
  plot.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: KEY_STEP_S, ArrowRight: -KEY_STEP_S}[event.key];
    if (event.key === "Escape") move(null);
    if (step === undefined) return;
    event.preventDefault();
    move((cursor.at ?? 0) + step);
  });
}
