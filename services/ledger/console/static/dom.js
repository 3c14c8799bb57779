// Elements by function. Text is always text: nothing that comes from outside becomes markup.

/** An element: `h("a.quiet", {href: "#"}, "text", child, [more])`. `on…` are listeners; null and false are left out. */
export function h(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A part of a page, with a title; `key` is its id. */
export const card = (title, key, ...body) => h("section.card", { id: key, "aria-labelledby": `${key}-title`, tabindex: "-1" }, h("h2", { id: `${key}-title` }, title), ...body);

/** What may be wider than the page; by keyboard too. */
export const scrolled = (label, ...body) => h("div.scroll", { tabindex: "0", role: "group", "aria-label": label }, body);

/** A table. On a phone each row stands by itself, with its labels: the roles keep it a table for who hears it. */
export const stacked = (heads, rows) => h("table.stacked", { role: "table" },
  h("thead", { role: "rowgroup" }, line(heads.map((name) => h("th", { scope: "col", role: "columnheader" }, name || h("span.unseen", {}, "What can be done"))))), h("tbody", { role: "rowgroup" }, rows));
export const line = (...cells) => h("tr", { role: "row" }, cells);
export const cell = (name, label, ...shown) => h(name, { role: "cell", "data-label": label }, shown);

/** A bar: how much is spent and how much is held, in percent of what there may be. */
export function meter(spent, used, label) {
  const level = used >= 100 ? "bad" : used >= 80 ? "warn" : "ok", fill = h(`i.fill.${level}`), held = h(`i.held.${level}`);
  fill.style.width = `${Math.min(100, spent)}%`;
  held.style.width = `${Math.max(0, Math.min(100, used) - Math.min(100, spent))}%`;
  return h("div.meter", { role: "img", "aria-label": label ?? `${Math.floor(used)} percent used` }, fill, held);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for drawings. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

const shown = new WeakMap();

/** Draw `data` into `place`, only where it has changed; who had the focus keeps it (by `data-key`). */
export function draw(place, data, render) {
  const text = JSON.stringify(data);
  if (shown.get(place) === text) return;
  shown.set(place, text);
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  place.replaceChildren(...[render(data)].flat(Infinity).filter(Boolean));
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** A line for everyone, also for who does not see the page. */
export function say(text) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => said.classList.remove("shown"), 6000);
}

/** A small line over time. */
export function sparkline(values, label) {
  const width = 240, height = 40, most = Math.max(...values, 1e-9), step = width / Math.max(1, values.length - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(1)},${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`);
  return s("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label },
    s("polygon", { points: `0,${height} ${points.join(" ")} ${width},${height}` }),
    s("polyline", { points: points.join(" ") }));
}
