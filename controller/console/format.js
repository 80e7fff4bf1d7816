// Figures for people. What is not known is a dash, never a zero.

export const UNKNOWN = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

function digits(value, count) {
  return value.toLocaleString("en", {minimumFractionDigits: count, maximumFractionDigits: count});
}

/** A whole number. */
export function count(value) {
  return known(value) ? digits(value, 0) : UNKNOWN;
}

/** Requests per second, three figures. */
export function rate(value) {
  if (!known(value)) return UNKNOWN;
  return digits(value, value === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

/** A share of one, in percent; never rounded up to a whole that was not reached. */
export function percent(value, places = 1) {
  if (!known(value)) return UNKNOWN;
  const scale = 100 * 10 ** places;
  const cut = Math.floor(value * scale + 1e-9) / 10 ** places;
  return `${digits(cut, Number.isInteger(cut) ? 0 : places)} %`;
}

/** A latency in seconds, as ms or s. */
export function latency(value) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return "0";
  if (value >= 0.9995) return `${digits(value, value >= 10 ? 1 : 2)} s`;
  return `${digits(value * 1e3, value < 0.0995 ? 1 : 0)} ms`;
}

/** Labels of an axis: three figures at most, no trailing zeros. */
export const rateTick = (value) => String(Number(value.toPrecision(3)));
export const latencyTick = (value) =>
  value >= 1 ? `${rateTick(value)} s` : `${rateTick(value * 1e3)} ms`;

/** How long: one unit is enough. */
export function span(seconds) {
  if (!known(seconds)) return UNKNOWN;
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** How long ago. */
export function ago(seconds) {
  return known(seconds) ? `${span(seconds)} ago` : UNKNOWN;
}

/** A moment within the last minutes, to the second. */
export function moment(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes ? `${minutes} min ` : ""}${Math.round(seconds % 60)} s ago`;
}
