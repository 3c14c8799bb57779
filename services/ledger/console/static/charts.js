// Charts over time, drawn by uPlot (vendored, MIT): bars that stand on one another, or lines; and marks with words.

import { clock, count, duration, money } from "./format.js";
import { h } from "./dom.js";

const STEPS = { minute: 60, quarter: 900, hour: 3600, day: 86_400 };
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Set();

/** Draw all charts anew: the colours have changed. */
export const redraw = () => charts.forEach((chart) => chart.draw());

class Chart {
  constructor(title, series, value, lines = false) {
    Object.assign(this, { title, series, value, lines, marks: [], rows: [] });
    this.readout = h("p.readout", { "aria-hidden": "true" });
    this.place = h("div.plot", { role: "img" });
    this.words = h("ul.marks");
    this.element = h("div", {}, this.readout, this.place, this.words);
    this.plot = null;
    this.resized = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.resized.observe(this.place);
    charts.add(this);
  }

  leave() {
    charts.delete(this);
    this.resized.disconnect();
    this.plot?.destroy();
  }

  size() {
    return { width: Math.max(200, this.place.clientWidth), height: 190 };
  }

  /** Rows of /v1/series, and marks: {time, text}. */
  show(rows, step, marks = []) {
    this.rows = rows;
    this.step = STEPS[step];
    this.marks = marks;
    const times = rows.map((row) => new Date(row.time) / 1000);
    // The whole stack first, then what stands lower over it.
    const drawn = this.lines ? this.series.map((one) => rows.map((row) => row[one.field]))
      : this.series.map((_, i) => rows.map((row) => this.series.slice(0, this.series.length - i).reduce((all, one) => all + Number(row[one.field]), 0)));
    this.data = [times, ...drawn];
    this.place.setAttribute("aria-label", `${this.title}: ${this.series.map((one) => `${this.value(this.of(one, rows))} ${one.name}`).join(", ")}${marks.length ? `; unusual: ${marks.map((one) => one.text).join("; ")}` : ""}`);
    this.words.replaceChildren(...marks.map((one) => h("li", {}, h("span", { "aria-hidden": "true" }, "▲ "), one.text)));
    if (this.plot && this.drawn === step) this.plot.setData(this.data);
    else this.draw();
    this.drawn = step;
    this.read(null);
  }

  /** What a series came to over some rows: all together, or the last known. */
  of(one, rows) {
    if (!this.lines) return rows.reduce((all, row) => all + Number(row[one.field]), 0);
    return rows.findLast((row) => row[one.field] !== null)?.[one.field] ?? null;
  }

  draw() {
    if (!this.data) return;
    this.plot?.destroy();
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: color("--muted"), font, ticks: { show: false } };
    const least = this.lines ? 10 : this.series.length > 1 ? 2 : 0.0001; // so that no two labels read the same, and none is half a call
    const style = this.lines ? (one) => ({ stroke: color(one.color), width: 1.75, dash: one.dash, spanGaps: true, points: { show: this.rows.length < 3 } })
      : (one) => ({ fill: color(one.color), width: 0, paths: uPlot.paths.bars({ size: [0.72, 28], radius: 0.12 }), points: { show: false } });
    this.plot = new uPlot({
      ...this.size(),
      padding: [14, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { range: (_, low, high) => [low - this.step / 2, high + this.step / 2] }, y: { range: (_, __, high) => [0, high ? Math.max(high * 1.08, least) : Math.max(least, 1)] } },
      axes: [
        { ...axis, grid: { show: false }, size: 28, space: 70, values: (_, splits) => splits.map((at) => this.label(at)) },
        { ...axis, grid: { stroke: color("--line"), width: 1 }, size: (_, labels) => Math.max(56, 12 + 7 * Math.max(0, ...(labels ?? []).map((one) => one.length))), space: 44, values: (_, splits) => splits.map((at) => this.value(at)) },
      ],
      series: [{}, ...(this.lines ? this.series : this.series.toReversed()).map((one) => ({ label: one.name, ...style(one) }))],
      hooks: { setCursor: [(plot) => this.read(plot.cursor.idx)], draw: [(plot) => this.mark(plot)] },
    }, this.data, this.place);
  }

  /** A triangle over each marked step. */
  mark(plot) {
    const { ctx, bbox } = plot, wide = 5 * devicePixelRatio;
    ctx.fillStyle = color("--warn");
    for (const one of this.marks) {
      const x = plot.valToPos(new Date(one.time) / 1000, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top - 10 * devicePixelRatio);
      ctx.lineTo(x - wide, bbox.top - devicePixelRatio);
      ctx.lineTo(x + wide, bbox.top - devicePixelRatio);
      ctx.fill();
    }
  }

  label(at) {
    const date = new Date(at * 1000);
    if (this.step >= 86_400) return date.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
    return this.step >= 3600 && date.getHours() === 0 && date.getMinutes() === 0
      ? date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })
      : date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  }

  /** The legend, with the numbers of the step under the cursor, or of all. */
  read(index) {
    const rows = index === null || index === undefined ? this.rows : [this.rows[index]];
    const when = rows.length === 1 ? `${this.label(new Date(rows[0].time) / 1000)}` : this.lines ? "Last" : "In all";
    const known = this.series.filter((one) => !this.lines || this.of(one, this.rows) !== null);
    this.readout.replaceChildren(h("span.when", {}, when), ...known.map((one) =>
      h("span.key", {}, h(`i.swatch.${one.swatch}`), `${one.name} `, h("b", {}, this.value(this.of(one, rows))))));
  }
}

export const callsChart = () => new Chart("Calls", [
  { field: "success", name: "answered", color: "--accent", swatch: "ok" },
  { field: "blocked", name: "blocked", color: "--warn", swatch: "warn" },
  { field: "failed", name: "failed", color: "--bad", swatch: "bad" },
], count);

export const costChart = () => new Chart("Cost", [{ field: "cost_cents", name: "spent", color: "--accent", swatch: "ok" }], money);

export const timeChart = () => new Chart("Response time", [
  { field: "mean_ms", name: "mean", color: "--accent", swatch: "ok" },
  { field: "p95_ms", name: "95 % within", color: "--muted", swatch: "quiet", dash: [4, 4] },
], duration, true);

/** An unusual hour in words. */
export function unusual(one) {
  const shown = one.what === "spend" ? money : count, from = new Date(one.hour), to = new Date(from.getTime() + 3_600_000);
  const hours = `${clock(from).slice(0, 5)} to ${to > Date.now() ? "now" : clock(to).slice(0, 5)}`;
  return { time: one.hour, what: one.what, title: `${one.what === "spend" ? "Spend" : "Failures"}: ${one.score > 0 ? "far more" : "far less"} than usual`, text: `${shown(one.value)} from ${hours}, usually about ${shown(one.usual)}` };
}
