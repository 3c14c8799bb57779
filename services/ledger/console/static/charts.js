// Charts over time, drawn by uPlot (vendored, MIT). Bars that stand on one another: answered, blocked, failed.

import { count, money } from "./format.js";
import { h } from "./dom.js";

const STEPS = { minute: 60, quarter: 900, hour: 3600, day: 86_400 };
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Set();

/** Draw all charts anew: the colours have changed. */
export const redraw = () => charts.forEach((chart) => chart.draw());

class Chart {
  constructor(title, series, value) {
    this.title = title;
    this.series = series;
    this.value = value;
    this.readout = h("p.readout", { "aria-hidden": "true" });
    this.place = h("div.plot", { role: "img" });
    this.element = h("div", {}, this.readout, this.place);
    this.plot = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.place);
    charts.add(this);
  }

  size() {
    return { width: Math.max(200, this.place.clientWidth), height: 190 };
  }

  show(rows, step) {
    this.rows = rows;
    this.step = STEPS[step];
    const times = rows.map((row) => new Date(row.time) / 1000);
    // The whole stack first, then what stands lower over it.
    const stacked = this.series.map((_, i) => rows.map((row) => this.series.slice(0, this.series.length - i).reduce((all, one) => all + Number(row[one.field]), 0)));
    this.data = [times, ...stacked];
    this.place.setAttribute("aria-label", `${this.title}: ${this.series.map((one) => `${this.value(rows.reduce((all, row) => all + Number(row[one.field]), 0))} ${one.name}`).join(", ")}`);
    if (this.plot && this.drawn === step) this.plot.setData(this.data);
    else this.draw();
    this.drawn = step;
    this.read(null);
  }

  draw() {
    if (!this.data) return;
    this.plot?.destroy();
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: color("--muted"), font, ticks: { show: false } };
    const bars = uPlot.paths.bars({ size: [0.72, 28], radius: 0.12 });
    this.plot = new uPlot({
      ...this.size(),
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { range: (_, low, high) => [low - this.step / 2, high + this.step / 2] }, y: { range: (_, __, high) => [0, Math.max(high * 1.08, this.series.length > 1 ? 1 : 0.0001)] } },
      axes: [
        { ...axis, grid: { show: false }, size: 28, space: 70, values: (_, splits) => splits.map((at) => this.label(at)) },
        { ...axis, grid: { stroke: color("--line"), width: 1 }, size: 56, space: 44, values: (_, splits) => splits.map((at) => this.value(at)) },
      ],
      series: [{}, ...this.series.toReversed().map((one) => ({ label: one.name, fill: color(one.color), width: 0, paths: bars, points: { show: false } }))],
      hooks: { setCursor: [(plot) => this.read(plot.cursor.idx)] },
    }, this.data, this.place);
  }

  label(at) {
    const date = new Date(at * 1000);
    return this.step >= 3600 && date.getHours() === 0 && date.getMinutes() === 0
      ? date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })
      : date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  }

  /** The legend, with the numbers of the step under the cursor, or of all. */
  read(index) {
    const rows = index === null || index === undefined ? this.rows : [this.rows[index]];
    const when = rows.length === 1 ? `${this.label(new Date(rows[0].time) / 1000)}` : "In all";
    this.readout.replaceChildren(h("span.when", {}, when), ...this.series.map((one) =>
      h("span.key", {}, h(`i.swatch.${one.swatch}`), `${one.name} `, h("b", {}, this.value(rows.reduce((all, row) => all + Number(row[one.field]), 0))))));
  }
}

export const callsChart = () => new Chart("Calls", [
  { field: "success", name: "answered", color: "--accent", swatch: "ok" },
  { field: "blocked", name: "blocked", color: "--warn", swatch: "warn" },
  { field: "failed", name: "failed", color: "--bad", swatch: "bad" },
], count);

export const costChart = () => new Chart("Cost", [{ field: "cost_cents", name: "spent", color: "--accent", swatch: "ok" }], money);
