// Small helpers over the DOM. Text only ever goes in as text: names come from users.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Set the text where it differs: an unchanged node keeps selection and repaints nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute where it differs. */
export function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const rows = new WeakMap();

/** Rows of a reconciled parent, by key. */
export function rowsOf(parent) {
  if (!rows.has(parent)) rows.set(parent, new Map());
  return rows.get(parent);
}

/**
 * Make the children of `parent` follow `items`, keeping the element of each key.
 * `create(item)` gives `{element, update(item)}`.
 */
export function reconcile(parent, items, keyOf, create) {
  const kept = rowsOf(parent);
  const keys = new Set(items.map(keyOf));
  for (const [key, row] of kept) {
    if (!keys.has(key)) {
      row.element.remove();
      kept.delete(key);
    }
  }
  items.forEach((item, index) => {
    const key = keyOf(item);
    if (!kept.has(key)) kept.set(key, create(item));
    const row = kept.get(key);
    if (parent.children[index] !== row.element) {
      parent.insertBefore(row.element, parent.children[index] ?? null);
    }
    row.update(item); // in the page already: a chart asks for its width
  });
}
