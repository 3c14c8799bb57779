// What bounds calls: limits, quotas, bounds of single tasks, cheaper models near a budget's end; and changing them.

import { act } from "./actions.js";
import { card, cell, h, line, scrolled, stacked } from "./dom.js";
import { ago, count, ending, money, short, words } from "./format.js";
import { boundsWords, quotaLimit, quotaMeter, quotaScope, quotaUsed } from "./rules.js";
import { read } from "./server.js";

// An order is in the books a moment after it was given.
const AGAIN_MS = [300, 1200, 4000];

const COLUMNS = {
  limits: {
    title: "Limits of tenants and users", about: "limits", empty: "None was set: each user has the default ones.", add: "Set a limit", heads: ["For", "An hour", "A month", "At once"],
    cells: (row) => [whom(row), money(row.hourly_cents), money(row.monthly_cents), row.max_in_flight ?? "–"], change: "limits",
  },
  quotas: {
    title: "Quotas", about: "quotas", empty: "None. A quota bounds any scope: a user, a key, a model, a type of task.", add: "Add a quota", heads: ["For", "At most", "Used now"],
    cells: (row) => [h("span", {}, quotaScope(row), row.shadow ? h("span.tag", {}, "shadow") : null), quotaLimit(row), used(row)], change: "quota.set", remove: "quota.unset",
  },
  bounds: {
    title: "Bounds of a single task", about: "bounds", empty: "None. A bound holds for each task of a type by itself.", add: "Set bounds", heads: ["Type", "At most"],
    cells: (row) => [`${words(row.task_type)}${row.tenant_id ? "" : ", every tenant"}`, boundsWords(row)], change: "bounds.set", remove: "bounds.unset",
  },
  downgrades: {
    title: "A cheaper model near the budget's end", about: "downgrades", empty: () => ["None. ", h("code", {}, "skeldir downgrade set"), " makes one."], heads: ["Calls to", "Go to", "From"],
    cells: (row) => [h("span", {}, row.model, row.shadow ? h("span.tag", {}, "shadow") : null), row.to, `${row.percent} % of the ${row.window}`], remove: "downgrade.unset",
  },
};
const SETS = { limits: "limits", quotas: "quota.set", bounds: "bounds.set" };

function whom(row) {
  return row.user_id ? h("span", {}, "User ", h("code", { title: row.user_id }, short(row.user_id))) : row.owner === "*" ? "Tenant as a whole" : "–";
}

function used(row) {
  if (row.spent === null) return h("span.muted", {}, "nothing yet");
  const rest = [row.unit !== "in_flight" && row.reserved ? `${row.unit === "money" ? money(row.reserved) : count(row.reserved)} of it held` : null, row.resets_at ? `resets ${ending(row.resets_at)}` : null].filter(Boolean).join(", ");
  return h("div.used", {}, quotaUsed(row), rest ? h("span.muted", {}, `, ${rest}`) : null, row.used_pct === null ? null : quotaMeter(row));
}

export class LimitsPage {
  constructor(query, session) {
    this.session = session;
    this.tenant = query.get("tenant_id") || (session.role === "operator" ? null : session.tenant_id);
    this.lists = Object.keys(COLUMNS).map((name) => new List(name, session, this.tenant));
    this.problem = h("p.problem", { role: "alert" });
    this.element = h("div", {}, h("h1", {}, "Limits", this.tenant ? h("span.muted", {}, " of tenant ", h("code", { title: this.tenant }, short(this.tenant))) : null),
      session.role === "operator" ? h("form.filters", { onsubmit: (event) => this.submit(event) },
        h("div.field.grow", {}, h("label", { for: "f-tenant" }, "Tenant"), h("input", { id: "f-tenant", name: "tenant_id", value: query.get("tenant_id") ?? "", placeholder: "all", spellcheck: "false", autocomplete: "off" })),
        h("button.primary", { type: "submit" }, "Show")) : null,
      h("p.sub", {}, "Every one of them is reserved against before a call, so none is passed. What is spent against limits is on the ", h("a", { href: "#/" }, "overview"), "; what was changed, when and by whom, under ", h("a", { href: `#/orders${this.tenant && session.role === "operator" ? `?tenant_id=${this.tenant}` : ""}` }, "orders"), "."),
      this.problem, h("div.stack", {}, this.lists.map((list) => list.element)));
    this.ordered = () => AGAIN_MS.forEach((ms) => this.timers.push(setTimeout(() => this.load(), ms)));
    this.timers = [];
    document.addEventListener("ordered", this.ordered);
    this.load();
  }

  leave() {
    document.removeEventListener("ordered", this.ordered);
    this.timers.forEach(clearTimeout);
  }

  show() {}

  submit(event) {
    event.preventDefault();
    const tenant = new FormData(event.target).get("tenant_id").trim();
    location.hash = `#/limits${tenant ? `?${new URLSearchParams({ tenant_id: tenant })}` : ""}`;
  }

  async load() {
    try {
      await Promise.all(this.lists.map((list) => list.load()));
      this.problem.textContent = "";
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }
}

class List {
  constructor(name, session, tenant) {
    this.name = name;
    this.session = session;
    this.tenant = tenant;
    this.asked = session.role === "operator" ? { tenant_id: tenant } : {};
    this.rows = [];
    this.place = h("div", { "aria-busy": "true" });
    const { title, add } = COLUMNS[name], may = session.may_order && add;
    const csv = new URLSearchParams(Object.entries({ ...this.asked, limit: 500, format: "csv" }).filter(([, value]) => value));
    this.element = card(title, name, this.place, h("div.foot", {}, may ? h("button.small", { type: "button", onclick: () => this.begin() }, add) : null, h("a", { href: `/v1/${name}?${csv}`, download: `${name}.csv` }, "CSV")));
  }

  begin() {
    act(SETS[this.name], { tenant_id: this.tenant });
  }

  async load() {
    const found = await read(`/v1/${this.name}`, { ...this.asked, limit: 200 });
    const rows = found[this.name];
    if (JSON.stringify(rows) !== JSON.stringify(this.rows) || this.place.hasAttribute("aria-busy")) this.draw(rows, found.next);
    this.rows = rows;
    this.place.removeAttribute("aria-busy");
  }

  draw(rows, more) {
    const { heads, cells, change, remove, empty, title } = COLUMNS[this.name], may = this.session.may_order, all = !this.tenant;
    if (!rows.length) return this.place.replaceChildren(h("p.empty", {}, typeof empty === "string" ? empty : empty()));
    const does = (kind, verb, row, i) => (may && kind ? h("button.link", { type: "button", "data-key": `${verb} ${this.name} ${i}`, "aria-label": `${verb}: ${title}, row ${i + 1}`, onclick: () => act(kind, row) }, verb) : null);
    const names = [...(all ? ["Tenant"] : []), ...heads, "Set by", ""];
    this.place.replaceChildren(scrolled(title, stacked(names, rows.map((row, i) => line(all ? cell("td", "Tenant", row.tenant_id ? h("a", { href: `#/limits?tenant_id=${row.tenant_id}`, title: row.tenant_id }, h("code", {}, short(row.tenant_id))) : "every one") : null,
        cells(row).map((value, at) => cell("td", heads[at], value)), cell("td.wide", "Set by", row.actor, h("span.muted", {}, ` ${row.reason}, ${ago(row.changed_at ?? row.updated_at)}`)), cell("td.end", null, does(change, "Change", row, i), " ", does(remove, "Remove", row, i)))))),
    more ? h("p.muted", {}, "The first 200; the CSV and the read API have them all, page by page.") : "");
    return null;
  }
}
