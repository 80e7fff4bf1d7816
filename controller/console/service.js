// One service: its state, charts, replicas and decisions.

import {chart} from "./chart.js";
import {h, mark, reconcile, say} from "./dom.js";
import {UNKNOWN, ago, count, latency, latencyTick, percent, rate, rateTick, span} from "./format.js";

export const PHASES = ["Serving", "Standby", "Starting", "Pending", "Draining", "Failed"];
const TILES_SHOWN = 60; // of one phase: a fleet of thousands stays a page that can be read

/** In one word, and how loud: `good`, `bad` or `quiet`. */
export function verdict(view) {
  if (view.fault != null) return {word: "Fault", tone: "bad"};
  if (view.attained_ratio == null) return {word: "SLO unknown", tone: "quiet"};
  if (view.attained_ratio < view.slo_ratio) return {word: "Missing SLO", tone: "bad"};
  return {word: "Within SLO", tone: "good"};
}

export function byPhase(replicas) {
  const others = replicas.map((replica) => replica.phase).filter((one) => !PHASES.includes(one));
  return [...PHASES, ...new Set(others)].map((phase) => ({
    phase, replicas: replicas.filter((replica) => replica.phase === phase),
  }));
}

export function serviceCard(id) {
  const name = h("h2", {id: `${id}-name`});
  const namespace = h("span", {class: "namespace"});
  const badge = h("span", {class: "badge"});
  const attained = h("b");
  const objective = h("span", {class: "of"});
  const fault = h("p", {class: "fault", role: "alert", hidden: ""});
  const reason = h("b");
  const message = h("span");
  const facts = factList(["Model", "GPU", "Endpoint"]);
  const flags = flagList();
  facts.element.append(fact("Configuration", flags.element));
  const replicas = replicaGrid();
  const findings = findingList();
  const decisions = decisionTable(`${id}-decisions`);
  const cursor = {at: null, moved: () => draw()};
  const charts = chartsOf(cursor);
  const element = h("article", {class: "service", id, "aria-labelledby": `${id}-name`},
    h("header", {}, h("div", {class: "name"}, name, namespace, badge),
      h("p", {class: "attained"}, "attainment ", attained, objective)),
    fault,
    h("p", {class: "now"}, reason, " ", message),
    findings.element,
    facts.element,
    h("div", {class: "charts"}, ...charts.map((one) => one.element)),
    h("div", {class: "columns"},
      h("section", {"aria-label": "Replicas"}, h("h3", {}, "Replicas"), ...replicas.elements),
      h("section", {"aria-label": "Decisions"}, h("h3", {}, "Decisions"), decisions.element)),
  );
  let last = null;

  function draw() {
    if (last === null) return;
    const box = element.getBoundingClientRect();
    if (box.bottom < 0 || box.top > window.innerHeight) return; // drawn when scrolled into view
    for (const one of charts) one.draw(last.view, last.columns, last.nowS);
  }

  function update({view, columns, nowS}) {
    last = {view, columns, nowS};
    const state = verdict(view);
    say(name, view.name);
    say(namespace, view.namespace);
    say(badge, state.word);
    mark(badge, "data-tone", state.tone);
    say(attained, percent(view.attained_ratio, 2));
    say(objective, ` of ${percent(view.slo_ratio, 2)}`);
    mark(attained, "data-tone", view.attained_ratio == null ? "quiet"
      : view.attained_ratio < view.slo_ratio ? "bad" : "good");
    fault.hidden = view.fault == null;
    say(fault, view.fault == null ? "" : `Fault: ${view.fault}`);
    say(reason, view.reason);
    say(message, view.message);
    facts.update([view.model, view.gpu, view.endpoint ?? UNKNOWN]);
    flags.update(view.configuration);
    replicas.update(view);
    findings.update(view.findings);
    decisions.update(view.decisions);
    draw();
  }
  return {element, update, draw};
}

function chartsOf(cursor) {
  const wanted = [
    {title: "Requests per second", format: rate, tick: rateTick, series: [
      {key: "capacity_rps", label: "capacity", kind: "step", tone: "capacity"},
      {key: "forecast_rps", label: "forecast", kind: "dashed", tone: "forecast"},
      {key: "arrival_rps", label: "arriving", kind: "line", tone: "arrival"}]},
    {title: "Time to first token", format: latency, tick: latencyTick,
      series: [{key: "ttft_s", label: "TTFT", kind: "line", tone: "latency"}],
      limit: {label: "SLO", of: (view) => view.slo_ttft_s}},
    {title: "Inter-token latency", format: latency, tick: latencyTick,
      series: [{key: "itl_s", label: "ITL", kind: "line", tone: "latency"}],
      limit: {label: "SLO", of: (view) => view.slo_itl_s}},
    {title: "Replicas", format: count, tick: rateTick, whole: true, series: [
      {key: "serving", label: "serving", kind: "stack", tone: "serving"},
      {key: "standby", label: "standby", kind: "stack", tone: "standby"},
      {key: "coming", label: "coming", kind: "stack", tone: "starting"},
      {key: "draining", label: "draining", kind: "stack", tone: "draining"},
      {key: "failed", label: "failed", kind: "stack", tone: "failed"}]},
  ];
  return wanted.map((spec) => chart(spec, cursor));
}

function factList(names) {
  const values = names.map(() => h("dd"));
  return {element: h("dl", {class: "facts"}, ...names.map((name, i) => fact(name, values[i]))),
    update: (texts) => texts.forEach((text, i) => say(values[i], text))};
}

function fact(name, value) {
  return h("div", {class: `fact ${name.toLowerCase()}`}, h("dt", {}, name), value);
}

/** Engine flags, each kept on one line where it fits. */
function flagList() {
  const element = h("dd");
  return {element, update(configuration) {
    const flags = (configuration || UNKNOWN).split(/ (?=--)/).map((text, i) => ({i, text: `${text} `}));
    reconcile(element, flags, (flag) => flag.i, () => {
      const flag = h("span", {class: "flag"});
      return {element: flag, update: ({text}) => say(flag, text)};
    });
  }};
}

function replicaGrid() {
  const summary = h("p", {class: "summary"});
  const tiles = h("ul", {class: "tiles"});
  return {elements: [summary, tiles], update(view) {
    const groups = byPhase(view.replicas);
    say(summary, groups.map((group) => phaseCount(group, view)).filter(Boolean).join(" · "));
    const shown = groups.flatMap((group) => group.replicas.slice(0, TILES_SHOWN))
      .map((replica) => ({...replica, service: view.name}));
    reconcile(tiles, shown, (replica) => replica.id, replicaTile);
  }};
}

/** A phase in words: how many, how many are wanted where that differs, how many are shown. */
function phaseCount({phase, replicas}, view) {
  const here = replicas.length;
  const wanted = {Serving: view.serving_wanted, Standby: view.standby_wanted}[phase] ?? here;
  if (here === 0 && wanted === 0) return "";
  const notes = [];
  if (wanted !== here) notes.push(`${count(wanted)} wanted`);
  if (here > TILES_SHOWN) notes.push(`${TILES_SHOWN} shown`);
  return `${count(here)} ${phase.toLowerCase()}${notes.length ? ` (${notes.join(", ")})` : ""}`;
}

function replicaTile() {
  const [id, phase, age] = [h("b"), h("span", {class: "phase"}), h("span")];
  const [running, waiting, kv] = [h("b"), h("b"), h("b")];
  const level = h("i");
  const message = h("p", {class: "message", hidden: ""});
  const element = h("li", {class: "tile"},
    h("p", {class: "who"}, id, phase, age),
    h("p", {class: "load"}, running, " run ", waiting, " wait ", kv, " KV"),
    h("div", {class: "meter", "aria-hidden": "true"}, level), message);
  return {element, update(replica) {
    mark(element, "data-phase", replica.phase);
    mark(element, "title", `${replica.id} on ${replica.gpu}`);
    const prefix = `${replica.service}-`;
    say(id, replica.id.startsWith(prefix) ? replica.id.slice(prefix.length) : replica.id);
    say(phase, replica.phase);
    say(age, span(replica.age_s));
    say(running, count(replica.running));
    say(waiting, count(replica.waiting));
    say(kv, percent(replica.kv_usage_ratio, 0));
    level.style.width = `${Math.min(100, 100 * (replica.kv_usage_ratio ?? 0))}%`;
    message.hidden = !replica.message;
    say(message, replica.message);
  }};
}

function findingList() {
  const element = h("ul", {class: "findings", "aria-label": "Findings", hidden: ""});
  return {element, update(findings) {
    element.hidden = findings.length === 0;
    reconcile(element, findings.map((found, i) => ({...found, i})), (found) => found.i, findingRow);
  }};
}

function findingRow() {
  const [cause, message, mend] = [h("b"), h("span"), h("span", {class: "mend"})];
  const element = h("li", {}, cause, " ", message, " ", mend);
  return {element, update(found) {
    mark(element, "data-severity", found.severity);
    say(cause, found.cause);
    say(message, `${found.message}.`);
    say(mend, found.mend ? `Mend: ${found.mend}.` : "");
  }};
}

function decisionTable(id) {
  const body = h("tbody");
  const none = h("p", {class: "none"}, "None yet.");
  const table = h("table", {}, h("thead", {}, h("tr", {},
    ...["When", "Reason", "Serving", "Standby", "Why"].map((text) => h("th", {scope: "col"}, text)),
  )), body);
  const element = h("div",
    {class: "decisions", id, tabindex: "0", role: "region", "aria-label": "Last decisions"},
    table, none);
  return {element, update(decisions) {
    none.hidden = decisions.length > 0;
    table.hidden = decisions.length === 0;
    reconcile(body, decisions.map((made, i) => ({...made, i})), (made) => made.i, decisionRow);
  }};
}

function decisionRow() {
  const cells = ["when", "reason", "number", "number", "why"].map((name) => h("td", {class: name}));
  return {element: h("tr", {}, ...cells), update(made) {
    [ago(made.ago_s), made.reason, count(made.serving), count(made.standby), made.message]
      .forEach((text, i) => say(cells[i], text));
  }};
}
