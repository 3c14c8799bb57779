// What was ordered: who stopped, bounded or released what, when and why.

import { cell, h, line, scrolled, stacked } from "./dom.js";
import { moment, scopeWords, words, zone } from "./format.js";
import { read } from "./server.js";

const PAGE = 50;
const HEADS = [`When (${zone()})`, "Order", "For", "What", "By, and why"];
const KINDS = ["kill_switch.engaged", "kill_switch.released", "shutoff.engaged", "shutoff.released", "limits.set", "quota.set", "quota.unset", "bounds.set", "bounds.unset", "downgrade.set", "downgrade.unset", "provider_breaker.changed", "provider_breaker.reset", "price.set", "key.created", "key.revoked", "attempt.reconciled", "texts.erased"];
const kind = (type) => words(type.replace(".", " "));

export class Orders {
  constructor(query, session) {
    this.query = query;
    const chosen = query.get("type") ?? "";
    const kinds = h("select", { name: "type", id: "f-type" }, ["", ...KINDS].map((type) => h("option", { value: type, selected: type === chosen }, type ? kind(type) : "any")));
    const table = stacked(HEADS, []);
    this.rows = table.lastChild;
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.load(this.next) }, "Older");
    this.note = h("p.empty", { role: "status" }, "Reading");
    const csv = new URLSearchParams({ ...Object.fromEntries(query), limit: 500, format: "csv" });
    this.element = h("div", {}, h("h1", {}, "Orders"),
      h("form.filters", { onsubmit: (event) => this.submit(event) },
        h("div.field.month", {}, h("label", { for: "f-type" }, "Order"), kinds),
        session.role === "operator" ? h("div.field.grow", {}, h("label", { for: "f-tenant" }, "Tenant"), h("input", { id: "f-tenant", name: "tenant_id", value: query.get("tenant_id") ?? "", placeholder: "all", spellcheck: "false", autocomplete: "off" })) : null,
        h("button.primary", { type: "submit" }, "Show")),
      h("section.card", { "aria-label": "Orders" }, scrolled("Orders", table),
        this.note, h("div.foot", {}, this.more, h("a", { href: `/v1/orders?${csv}`, download: "orders.csv" }, "Download as CSV"))));
    this.load(null);
  }

  leave() {}
  show() {}

  submit(event) {
    event.preventDefault();
    const filled = [...new FormData(event.target)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
    location.hash = `#/orders?${new URLSearchParams(filled)}`;
  }

  async load(before) {
    try {
      const found = await read("/v1/orders", { ...Object.fromEntries(this.query), limit: PAGE, before });
      this.rows.append(...found.orders.map(shown));
      this.next = found.next;
      this.more.hidden = !found.next;
      this.note.textContent = this.rows.children.length ? "" : "Nothing was ordered.";
    } catch (error) {
      this.note.textContent = error.message;
    }
  }
}

function shown(row) {
  return line(cell("td.nowrap", null, moment(row.time)), cell("td.nowrap", null, kind(row.type)),
    cell("td", "For", scopeWords(row.scope ?? row, row.scope ? "everything" : "–")),
    cell("td", "What", what(row.order) || "–"), cell("td.wide", "By, and why", row.actor ?? "–", row.reason ? h("span.muted", {}, ` ${row.reason}`) : null));
}

/** The rest of an order, in its own words. */
const what = (order) => Object.entries(order).filter(([name, value]) => value !== null && value !== "" && value !== "enforce" && !["tenant_id", "user_id"].includes(name)).map(([name, value]) =>
  `${words(name)} ${typeof value === "object" ? JSON.stringify(value) : /^\d{4}-\d\d-\d\dT/.test(value) ? moment(value) : value}`).join(", ");
