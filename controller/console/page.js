// The live page: one event stream, one document, drawn once a second.

import {WINDOW_S} from "./chart.js";
import {h, mark, reconcile, rowsOf, say} from "./dom.js";
import {UNKNOWN, count, percent, rate, span} from "./format.js";
import {byPhase, serviceCard, verdict} from "./service.js";

const LOST_AFTER_MS = 5000; // five events missed
const RETRY_MS = 2000;
const at = (id) => document.getElementById(id);
const keyOf = (view) => JSON.stringify([view.namespace, view.name]);

const histories = new Map(); // by key of the service: columns of samples, oldest first
let newest = null;
let heardAt = null; // on performance.now()
let stream = null;
let retry = null;
let cards = 0;

function connect() {
  clearTimeout(retry);
  stream?.close();
  stream = new EventSource("api/stream");
  stream.onopen = () => {
    histories.clear(); // another controller may answer now, with another clock
    newest = null;
    loadPast();
  };
  stream.onmessage = (event) => take(JSON.parse(event.data), false);
  stream.onerror = () => {
    lost();
    if (stream?.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY_MS);
  };
}

/** What happened before the page was open, or while it was cut off. */
async function loadPast() {
  try {
    const answer = await fetch("api/services");
    if (answer.ok) take(await answer.json(), true);
  } catch {
    lost(); // the stream tells when it is back, and then this is asked again
  }
}

function take(told, whole) {
  for (const view of told.services) remember(view, whole);
  const here = new Set(told.services.map(keyOf));
  for (const key of histories.keys()) if (!here.has(key)) histories.delete(key);
  if (newest === null || told.at_s >= newest.at_s) newest = told;
  heardAt = performance.now();
  found();
  draw();
}

/** Join the samples known and those that came; forget those beyond the window. */
function remember(view, whole) {
  const known = histories.get(keyOf(view));
  const [kept, added] = whole || !known ? [view.history, known] : [known, view.history];
  histories.set(keyOf(view), kept);
  const last = kept.at_s.at(-1) ?? -Infinity;
  added?.at_s.forEach((s, i) => {
    if (s > last) for (const name of Object.keys(kept)) kept[name].push(added[name][i]);
  });
  while (kept.at_s.length > 0 && kept.at_s.at(-1) - kept.at_s[0] > WINDOW_S) {
    for (const column of Object.values(kept)) column.shift();
  }
}

function draw() {
  if (newest === null || document.hidden) return;
  const views = newest.services;
  drawFleet(views);
  const nowS = newest.at_s;
  const items = views.map((view) => ({view, columns: histories.get(keyOf(view)), nowS}));
  reconcile(at("services"), items, (item) => keyOf(item.view), () => serviceCard(`service-${cards++}`));
  reconcile(at("overview"), items, (item) => keyOf(item.view), overviewLink);
  at("overview").hidden = views.length < 2;
  at("empty").hidden = views.length > 0;
  say(at("empty"), "No service has reported yet.");
  const bad = views.filter((view) => verdict(view).tone === "bad").length;
  document.title = bad > 0 ? `(${bad}) WhaleFlux` : "WhaleFlux";
}

function overviewLink(item) {
  const [dot, name, figure] = [h("i", {class: "dot", "aria-hidden": "true"}), h("span"), h("b")];
  const element = h("a", {}, dot, name, figure);
  const key = keyOf(item.view);
  return {element, update({view}) {
    mark(element, "href", `#${rowsOf(at("services")).get(key).element.id}`);
    mark(dot, "data-tone", verdict(view).tone);
    mark(element, "title", `${view.namespace}/${view.name}: ${verdict(view).word}`);
    say(name, view.name);
    say(figure, percent(view.attained_ratio));
  }};
}

function drawFleet(views) {
  const told = views.filter((view) => view.attained_ratio != null);
  const within = told.filter((view) => view.attained_ratio >= view.slo_ratio).length;
  const worst = told.reduce((a, b) => (a && a.attained_ratio <= b.attained_ratio ? a : b), null);
  const unknown = views.length - told.length;
  const stats = [
    {label: "Services within SLO", figure: told.length ? `${within} of ${told.length}` : UNKNOWN,
      note: unknown ? `${unknown} unknown` : "", tone: within < told.length ? "bad" : "plain"},
    {label: "Lowest attainment", figure: percent(worst?.attained_ratio, 2), note: worst?.name ?? "",
      tone: "plain"},
    sumOf(views, "arrival_rps", "Arriving, requests/s"),
    sumOf(views, "capacity_rps", "Capacity, requests/s"),
    {label: "Replicas", figure: count(views.reduce((n, view) => n + view.replicas.length, 0)),
      note: "", tone: "plain", phases: byPhase(views.flatMap((view) => view.replicas))},
  ];
  reconcile(at("fleet"), stats, (stat) => stat.label, statTile);
}

/** A sum over services; those that are not known are named beside it. */
function sumOf(views, field, label) {
  const told = views.filter((view) => view[field] != null);
  const sum = told.reduce((total, view) => total + view[field], 0);
  const unknown = views.length - told.length;
  return {label, figure: told.length ? rate(sum) : UNKNOWN, tone: "plain",
    note: unknown && told.length ? `+ ${unknown} unknown` : ""};
}

function statTile(stat) {
  const [figure, note] = [h("b"), h("span", {class: "note"})];
  const bar = h("div", {class: "bar", "aria-hidden": "true"});
  const element = h("div", {class: "stat"},
    h("span", {class: "label"}, stat.label), h("p", {}, figure, " ", note));
  if (stat.phases) element.append(bar);
  return {element, update(now) {
    say(figure, now.figure);
    mark(figure, "data-tone", now.tone);
    if (!now.phases) return say(note, now.note);
    const there = now.phases.filter((group) => group.replicas.length > 0);
    say(note, there.map((g) => `${g.replicas.length} ${g.phase.toLowerCase()}`).join(" · "));
    reconcile(bar, there, (group) => group.phase, phaseShare);
  }};
}

function phaseShare() {
  const element = h("i");
  return {element, update(group) {
    mark(element, "data-phase", group.phase);
    element.style.flexGrow = String(group.replicas.length);
  }};
}

function found() {
  mark(at("connection"), "data-state", "live");
  say(at("connection"), "live");
  at("notice").hidden = true;
  say(at("notice"), "");
  document.body.classList.remove("old");
}

function lost() {
  mark(at("connection"), "data-state", "lost");
  at("notice").hidden = false;
  say(at("notice"), heardAt === null
    ? "The controller does not answer. Trying again."
    : "Connection to the controller lost: these figures are old. Trying again.");
  document.body.classList.add("old");
}

/** A stream that is open and silent is as good as lost. */
function watch() {
  if (document.hidden) return;
  const silentMs = heardAt === null ? 0 : performance.now() - heardAt;
  if (silentMs > LOST_AFTER_MS) lost();
  if (at("connection").dataset.state === "lost") {
    say(at("connection"), heardAt === null ? "no answer" : `last heard ${span(silentMs / 1e3)} ago`);
  }
}

/** A hidden page holds no connection: a browser allows six to one server. */
function onVisibility() {
  if (document.hidden) {
    clearTimeout(retry);
    stream?.close();
    stream = null;
  } else {
    connect();
  }
}

document.addEventListener("visibilitychange", onVisibility);
document.addEventListener("scroll", () => requestAnimationFrame(drawCharts), {passive: true});
window.addEventListener("resize", () => requestAnimationFrame(drawCharts));
function drawCharts() {
  for (const card of rowsOf(at("services")).values()) card.draw();
}
setInterval(watch, 1000);
connect();
