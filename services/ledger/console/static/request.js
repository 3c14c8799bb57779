// One request: why it ended as it did, and everything that happened, in its order.

import { h, scrolled } from "./dom.js";
import { count, duration, exactly, money, scopeWords, words, zoned } from "./format.js";
import { ended, requestsOf } from "./requests.js";
import { read } from "./server.js";

const SAID = {
  "task.submitted": () => "Accepted; from here on it is durable",
  "task.allowed": (data) => `Allowed; ${money(data.reservation.amount / 1e9)} reserved at most`,
  "task.blocked": (data) => `Blocked by ${data.rule}: ${words(data.reason)}`,
  "attempt.started": (data) => `Attempt ${data.attempt_no} recorded, then the provider was called`,
  "task.succeeded": (data) => (data.was_cached ? "Answered from the cache" : `Answered in ${duration(data.usage.latency_ms)}`),
  "task.failed": (data) => `Failed: ${words(data.reason)}${data.spend === "uncertain" ? "; money perhaps spent" : ""}`,
  "reservation.ended": (data) => ({ settled: `Settled at ${money(data.settled / 1e9)}`, released: "Released; nothing was spent", held: `Held as perhaps spent: ${money(data.settled / 1e9)}` })[data.how],
  "attempt.resolved": (data) => `It became known (${words(data.by)}) what the attempt cost: ${money(data.usage.cost / 1e9)}`,
  "decision.expired": () => "The permission ran out, and was asked for again",
};

const TASK_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export class OneRequest {
  constructor(id) {
    this.element = h("div", {}, h("p.crumb", {}, h("a", { href: "#/requests" }, "Requests")), h("p.empty", { role: "status" }, "Loading"));
    if (!TASK_ID.test(id)) {
      this.element.lastChild.replaceWith(h("p.empty", { role: "alert" }, "A request's page has its task's id in the address. Request ids are searched for under Requests."));
      return;
    }
    read(`/v1/calls/${id}/timeline`).then((told) => this.fill(told)).catch((error) => this.element.lastChild.replaceWith(h("p.empty", { role: "alert" }, error.message)));
  }

  leave() {}
  show() {}

  fill({ call, verdict, events, archived }) {
    this.element.lastChild.replaceWith(h("article", {},
      h("h1.mono", {}, call.request_id), h("p.sub", {}, ended(call), " ", words(call.task_type), " on ", h("b", {}, `${call.provider}:${call.model}`), `, ${zoned(call.created_at)}`),
      why(call, verdict, archived),
      h("div.pair.narrow", {}, h("section.card", { "aria-labelledby": "t-title" }, h("h2", { id: "t-title" }, "What happened"), timeline(events)),
        h("section.card", { "aria-labelledby": "f-title" }, h("h2", { id: "f-title" }, "The request"), facts(call)))));
    document.getElementById("main").focus({ preventScroll: true });
  }
}

function why(call, verdict, archived) {
  if (archived.length) return h("section.card.why", {}, h("h2", {}, "In the archive"), h("p", {}, `Its events of ${archived.join(" and ")} have left the database; what became of it stands below.`));
  if (!verdict) return h("section.card.why", {}, h("h2", {}, "Not decided yet"), h("p", {}, "Policy has not read it, or holds it back."));
  const blocked = verdict.decision === "blocked";
  const level = blocked ? "warn" : call.status === "failed" ? "bad" : "ok";
  const title = blocked ? `Blocked: ${words(verdict.reason)}` : call.status === "failed" ? `Allowed, then failed: ${words(call.failure_reason)}` : "Allowed";
  return h(`section.card.why.${level}`, { "aria-labelledby": "why-title" }, h("h2", { id: "why-title" }, title), h("p.lead", {}, verdict.sentence),
    call.status === "failed" && call.failure_detail ? h("p.muted", {}, call.failure_detail) : null,
    blocked ? saw(verdict.saw) : limits(verdict.limits, verdict.quotas),
    h("p.muted", {}, `Decided ${zoned(verdict.time)}${blocked ? ` by the rule ${verdict.rule}` : ""}; breaker ${words(verdict.breaker_state)}; orders read up to ${verdict.control_position}.`));
}

function saw(seen) {
  const rows = Object.entries(seen ?? {}).filter(([name, value]) => value !== null && name !== "problem"); // the sentence is the problem
  if (!rows.length) return null;
  const shown = (name, value) => (name === "scope" && typeof value === "object" ? scopeWords(value, seen.unit ? "the tenant" : undefined) : name.endsWith("_cents") ? exactly(value) : name.endsWith("_ms") ? zoned(value) : typeof value === "object" ? JSON.stringify(value) : String(value));
  return h("dl.facts.seen", {}, rows.map(([name, value]) => h("div", {}, h("dt", {}, words(name.replace(/_(cents|ms)$/, ""))), h("dd", {}, shown(name, value)))));
}

function limits(rows = [], quotas = []) {
  const counted = (row, name) => (row.unit === "money" ? money(row[`${name}_cents`]) : count(row[name]));
  return scrolled("Limits it saw", h("table", {}, h("thead", {}, h("tr", {}, ["Limit it saw", "Spent", "Reserved, with this", "Cap"].map((name, i) => h("th", { scope: "col", class: i ? "end" : null }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, `${row.scope}, ${row.window} ${row.window_start}`), h("td.end", {}, money(row.spent_cents)), h("td.end", {}, money(row.reserved_cents)), h("td.end", {}, row.cap_cents === null ? "none" : money(row.cap_cents)))),
      quotas.map((row) => h("tr", {}, h("td", {}, `quota of ${words(row.unit)}${row.window ? `, ${row.window} ${row.window_start}` : ""}${row.shadow ? " (shadow)" : ""}`), h("td.end", {}, counted(row, "spent")), h("td.end", {}, counted(row, "reserved")), h("td.end", {}, counted(row, "limit")))))));
}

function timeline(events) {
  const start = events.length ? new Date(events[0].time) : 0;
  return h("ol.timeline", {}, events.map((event) => h(`li.${{ "task.blocked": "warn", "task.failed": "bad", "task.succeeded": "ok" }[event.type] ?? "none"}`, {},
    h("span.at", { title: zoned(event.time) }, `+${duration(new Date(event.time) - start)}`),
    h("div", {}, h("p", {}, SAID[event.type]?.(event.data) ?? words(event.type)), h("details", {}, h("summary", {}, h("code", {}, event.type)), h("pre", { tabindex: "0" }, JSON.stringify({ id: event.id, stream: event.stream, entry: event.entry_id, data: event.data }, null, 2)))))));
}

function facts(call) {
  const row = (name, value, mono) => h(mono ? "div.whole" : "div", {}, h("dt", {}, name), h(mono ? "dd.mono" : "dd", {}, value ?? "–"));
  return h("dl.facts.tall", {}, row("Cost", money(call.cost_cents)), row("Reserved", money(call.budget_reservation_cents)), row("Tokens", `${call.input_tokens} in, ${call.output_tokens} out`),
    row("Took", call.provider_attempted ? (call.ended_at ? duration(call.latency_ms) : "not ended yet") : "not called"), row("Attempts", call.attempts), row("Tenant", h("a", { href: `#/costs?${new URLSearchParams({ tenant_id: call.tenant_id })}`, title: "What this tenant costs" }, call.tenant_id), true), row("User", h("a", { href: requestsOf(call), title: "Requests of this user" }, call.user_id), true), row("Task", call.id, true), row("Correlation", call.correlation_id, true),
    call.output_text ? h("div.whole", {}, h("dt", {}, "Answer"), h("dd", {}, h("pre", { tabindex: "0" }, call.output_text))) : null);
}
