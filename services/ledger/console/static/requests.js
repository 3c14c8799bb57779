// Search: which requests were there, and what became of them.

import { cell, h, line, scrolled } from "./dom.js";
import { duration, moment, money, short, words, zone } from "./format.js";
import { read } from "./server.js";

const AGES = { "": "any time", 900: "15 minutes", 3600: "hour", 86400: "day", 604800: "week" };
const PAGE = 50;
const HEADS = [`When (${zone()})`, "Ended", "Request", "User", "Type", "Model", "Took", "Cost"];

export class Requests {
  constructor(query, session) {
    this.query = query;
    const choice = (name, options) => h("select", { name, id: `f-${name}` }, Object.entries(options).map(([value, text]) => h("option", { value, selected: (query.get(name) ?? "") === value }, text)));
    const field = (name, label, control) => h("div.field", {}, h("label", { for: `f-${name}` }, label), control);
    const text = (name, hint) => h("input", { name, id: `f-${name}`, value: query.get(name) ?? "", placeholder: hint, autocomplete: "off", spellcheck: "false", maxlength: 300 });
    const same = (...names) => Object.fromEntries(names.map((name) => [name, name ? words(name) : "any"]));
    this.form = h("form.filters", { role: "search", onsubmit: (event) => this.submit(event) },
      h("div.field.grow", {}, h("label", { for: "f-q" }, "Request, task or correlation"), text("q", "its id; abc* starts so")),
      field("status", "Ended", choice("status", same("", "success", "blocked", "failed", "pending"))),
      field("reason", "Reason", text("reason", "any")),
      field("task_type", "Task type", choice("task_type", same("", "route", "explanation", "investigation", "budget_optimization"))),
      field("model", "Model", text("model", "any")),
      field("age", "In the last", choice("age", AGES)),
      session.role === "operator" ? field("tenant_id", "Tenant", text("tenant_id", "any")) : null,
      session.user_id ? null : field("user_id", "User", text("user_id", "any")),
      h("button.primary", { type: "submit" }, "Search"));
    this.rows = h("tbody", { role: "rowgroup" });
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.load(this.next) }, "Older");
    this.note = h("p.empty", { role: "status" }, "Searching");
    this.csv = h("a", { download: "calls.csv" }, "Download as CSV");
    this.element = h("div", {}, h("h1", {}, "Requests"), this.form,
      h("section.card", { "aria-label": "Found" }, scrolled("Requests found", 
        h("table.stacked", { role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, HEADS.map((name) => h("th", { scope: "col", role: "columnheader", class: { Took: "end", Cost: "end", User: "spare" }[name] }, name)))), this.rows)),
      this.note, h("div.foot", {}, this.more, this.csv)));
    this.load(null);
  }

  leave() {}
  show() {}

  submit(event) {
    event.preventDefault();
    const filled = [...new FormData(this.form)].filter(([, value]) => value !== "");
    const hash = `#/requests?${new URLSearchParams(filled)}`;
    if (location.hash === hash) this.load(null);
    else location.hash = hash;
  }

  async load(before) {
    const { age, ...wanted } = Object.fromEntries(this.query);
    const asked = { ...wanted, limit: PAGE, since: age ? new Date(Date.now() - age * 1000).toISOString() : null };
    const query = new URLSearchParams(Object.entries({ ...asked, limit: 500, format: "csv" }).filter(([, value]) => value));
    this.csv.href = `/v1/calls?${query}`;
    try {
      const found = await read("/v1/calls", { ...asked, before });
      if (!before) this.rows.replaceChildren();
      this.rows.append(...found.calls.map(shown));
      this.next = found.next;
      this.more.hidden = !found.next;
      this.note.textContent = this.rows.children.length ? "" : "Nothing was found. Try fewer filters, or a longer time.";
    } catch (error) {
      this.note.textContent = error.message;
    }
  }
}

/** Where a user's requests are listed. */
export const requestsOf = (row) => `#/requests?${new URLSearchParams({ user_id: row.user_id })}`;

export const ended = (call) => h(`span.tag.${{ success: "ok", blocked: "warn", failed: "bad" }[call.status] ?? "none"}`, {}, call.status === "success" ? (call.was_cached ? "cached" : "answered") : words(call.status));

function shown(call) {
  const id = call.request_id.length > 26 ? `${call.request_id.slice(0, 24)}…` : call.request_id;
  return line(cell("td.nowrap", null, moment(call.created_at)),
    cell("td.nowrap", null, ended(call), " ", h("span.muted", {}, words(call.block_reason ?? call.failure_reason ?? ""))),
    cell("td.nowrap.wide", null, h("a", { href: `#/requests/${call.id}`, title: call.request_id }, id)),
    cell("td.nowrap.spare", "User", h("a", { href: requestsOf(call), title: `Requests of user ${call.user_id}` }, h("code", {}, short(call.user_id)))),
    cell("td.nowrap", "Type", words(call.task_type)), cell("td.nowrap", "Model", `${call.provider}:${call.model}`),
    cell("td.end.half", "Took", call.provider_attempted && call.ended_at ? duration(call.latency_ms) : "–"),
    cell("td.end.half", "Cost", money(call.cost_cents)));
}
