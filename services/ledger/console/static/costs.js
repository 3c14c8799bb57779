// What a month cost: by tenant, user, model and task type, day by day; and the statement.

import { act } from "./actions.js";
import { callsChart, costChart } from "./charts.js";
import { card, h } from "./dom.js";
import { count, money, percent, plural, short, words } from "./format.js";
import { read } from "./server.js";

const FIRST = 8, MORE = 50;

export class Costs {
  constructor(query, session) {
    this.session = session;
    this.month = query.get("month") || new Date().toISOString().slice(0, 7);
    this.tenant = query.get("tenant_id") || (session.role === "operator" ? null : session.tenant_id);
    const form = h("form.filters", { onsubmit: (event) => this.submit(event) },
      h("div.field.month", {}, h("label", { for: "f-month" }, "Month (UTC)"), h("input", { id: "f-month", name: "month", type: "month", value: this.month, required: true, pattern: "\\d{4}-\\d{2}" })),
      session.role === "operator" ? h("div.field.grow", {}, h("label", { for: "f-tenant" }, "Tenant"), h("input", { id: "f-tenant", name: "tenant_id", value: query.get("tenant_id") ?? "", placeholder: "all", spellcheck: "false", autocomplete: "off" })) : null,
      h("button.primary", { type: "submit" }, "Show"));
    this.sum = h("p.sub", { role: "status" }, "Adding up");
    this.cost = costChart();
    this.calls = callsChart();
    const whose = this.tenant ? session.user_id ? null : "user" : "tenant";
    const parts = [whose, "model", "task_type"].filter(Boolean).map((by) => new Part(by, this.query, this.month, session));
    this.element = h("div", {}, h("h1", {}, "Costs", this.tenant ? h("span.muted", {}, " of tenant ", h("code", { title: this.tenant }, short(this.tenant))) : null), form, this.sum,
      this.tenant && !session.user_id ? this.actions() : null,
      h("div.pair", {}, card("Cost by day", "cost", this.cost.element), card("Calls by day", "calls", this.calls.element)),
      h("div.pair", {}, whose ? parts[0].element : null, h("div.stack", {}, parts.slice(whose ? 1 : 0).map((part) => part.element))));
    Promise.all([this.load(), ...parts.map((part) => part.load())]).catch((error) => { this.sum.textContent = error.message; });
  }

  get query() {
    return this.session.role === "operator" ? { tenant_id: this.tenant } : {};
  }

  leave() {
    this.cost.leave();
    this.calls.leave();
  }

  show() {}

  submit(event) {
    event.preventDefault();
    const filled = [...new FormData(event.target)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
    location.hash = `#/costs?${new URLSearchParams(filled)}`;
  }

  actions() {
    const query = (format) => `/v1/statement?${new URLSearchParams({ ...(this.query.tenant_id ? this.query : {}), month: this.month, format })}`;
    return h("p.actions", {}, h("a", { href: query("html"), target: "_blank", rel: "noopener" }, "Statement to print"), h("a", { href: query("csv"), download: `statement-${this.month}.csv` }, "Statement as CSV"),
      h("a", { href: `#/limits${this.query.tenant_id ? `?tenant_id=${this.tenant}` : ""}` }, "Limits and quotas"),
      this.session.may_order ? h("button.link.danger", { type: "button", onclick: () => act("stop", { tenant_id: this.tenant }) }, "Stop this tenant's calls") : null);
  }

  async load() {
    const since = new Date(`${this.month}-01T00:00:00Z`), end = new Date(since);
    end.setUTCMonth(end.getUTCMonth() + 1);
    const until = new Date(Math.min(end, Math.max(Date.now(), since.getTime() + 1)));
    const { series } = await read("/v1/series", { ...this.query, step: "day", since: since.toISOString(), until: until.toISOString() });
    this.cost.show(series, "day");
    this.calls.show(series, "day");
    const all = (name) => series.reduce((total, day) => total + Number(day[name]), 0);
    const calls = all("success") + all("blocked") + all("failed");
    this.sum.replaceChildren(h("b.large", {}, money(all("cost_cents"))), ` for ${plural(calls, "call")}: ${count(all("success"))} answered (${count(all("cached"))} from the cache), ${count(all("blocked"))} blocked, ${count(all("failed"))} failed.`);
  }
}

const TITLES = { tenant: "By tenant", user: "By user", model: "By model", task_type: "By task type" };

/** One way to divide a month's cost. */
class Part {
  constructor(by, query, month, session) {
    this.by = by;
    this.asked = { ...query, by, month };
    this.session = session;
    this.list = h("ul.meters");
    this.note = h("p.empty", {}, "Adding up");
    this.more = h("button.small", { type: "button", hidden: true, onclick: () => this.load(this.next) }, "More");
    const csv = new URLSearchParams(Object.entries({ ...this.asked, limit: 500, format: "csv" }).filter(([, value]) => value));
    this.element = card(TITLES[by], `by-${by}`, this.list, this.note, h("div.foot", {}, this.more, h("a", { href: `/v1/costs?${csv}`, download: `costs-by-${by}.csv` }, "CSV")));
    this.element.setAttribute("aria-busy", "true");
  }

  async load(before) {
    const found = await read("/v1/costs", { ...this.asked, limit: before ? MORE : FIRST, before });
    this.most = this.most ?? Number(found.costs[0]?.cost_cents);
    this.list.append(...found.costs.map((row) => this.line(row)));
    this.next = found.next;
    this.more.hidden = !found.next;
    this.note.textContent = this.list.children.length ? "" : "Nothing in this month.";
    this.element.removeAttribute("aria-busy");
  }

  line(row) {
    const fill = h("i.fill");
    fill.style.width = `${this.most ? (100 * row.cost_cents) / this.most : 0}%`;
    const name = row[this.by];
    const shown = this.by === "tenant" ? h("a", { href: `#/costs?${new URLSearchParams({ month: this.asked.month, tenant_id: name })}`, title: name }, h("code", {}, short(name)))
      : this.by === "user" ? h("code", { title: name }, short(name)) : this.by === "task_type" ? words(name) : name;
    const refused = Number(row.blocked) + Number(row.failed);
    return h("li", {}, h("div.line", {}, h("span", {}, shown, h("span.muted", {}, ` ${plural(Number(row.calls), "call")}${refused ? `, ${percent(refused, row.calls)} without an answer` : ""}`)), h("b.amount", {}, money(row.cost_cents))),
      h("div.meter", { "aria-hidden": "true" }, fill));
  }
}
