// The first page: is anything wrong, what does it cost, what is stopped.

import { act } from "./actions.js";
import { callsChart, costChart, timeChart, unusual } from "./charts.js";
import { card, cell, draw, h, line, meter, scrolled, sparkline, stacked } from "./dom.js";
import { findings, sum } from "./findings.js";
import { ago, clock, count, duration, money, percent, plural, scopeWords, short, words } from "./format.js";
import { requestsOf } from "./requests.js";
import { quotaLimit, quotaMeter, quotaScope, quotaUsed } from "./rules.js";
import { read } from "./server.js";

const RANGES = { "1 h": ["minute", 3600], "24 h": ["hour", 86_400], "7 d": ["hour", 7 * 86_400], "30 d": ["day", 30 * 86_400] };
// Policy keeps these, and takes them in again by an order; the others go back by way of the log itself.
const RETURNABLE = /:(tasks|outcomes)$/;
const RANGE_REFRESH_MS = 30_000;
const id = (value, what) => (value ? h("code", { title: `${what} ${value}` }, short(value)) : null);
const user = (row) => h("a", { href: requestsOf(row), title: `Requests of user ${row.user_id}` }, h("code", {}, short(row.user_id)));


export class Overview {
  constructor(session) {
    this.session = session;
    this.range = "1 h";
    this.calls = callsChart();
    this.cost = costChart();
    this.times = timeChart();
    this.verdict = h("section.verdict", { "aria-label": "State" });
    this.numbers = h("section.numbers", { "aria-label": "The last hour" });
    this.places = Object.fromEntries(["caps", "reasons", "stops", "log", "letters", "uncertain"].map((name) => [name, h("div")]));
    const { caps, reasons, stops, log, letters, uncertain } = this.places;
    const operator = session.role === "operator";
    this.element = h("div.overview", {}, h("h1.unseen", {}, "Overview"), this.verdict, this.numbers,
      h("div.ranges", { role: "group", "aria-label": "Time shown in the charts" }, Object.keys(RANGES).map((name) =>
        h("button.range", { type: "button", "aria-pressed": String(name === this.range), onclick: (event) => this.choose(name, event.target) }, name))),
      h("div.trio", {}, card("Calls", "calls", this.calls.element), card("Cost", "cost", this.cost.element), card("Response time", "times", this.times.element)),
      h("div.pair", {}, card("Limits and quotas, the fullest first", "spend", caps), card("Why calls ended without an answer", "why", reasons)),
      h("div.pair", {}, card("Stops in force", "stops", stops, h("div.foot", {}, h("a", { href: "#/orders" }, "What was ordered, and by whom"))), operator ? card("Behind the log", "behind", log) : card("Uncertain attempts", "uncertain", uncertain)),
      operator ? h("div.pair", {}, card("Dead letters", "letters", letters), card("Uncertain attempts", "uncertain", uncertain)) : null);
    this.timer = setInterval(() => this.range !== "1 h" && this.load(), RANGE_REFRESH_MS);
  }

  leave() {
    clearInterval(this.timer);
    for (const chart of [this.calls, this.cost, this.times]) chart.leave();
  }

  choose(name, button) {
    this.range = name;
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
    if (name === "1 h" && this.data) this.chart(this.data.minutes, "minute");
    else this.load();
  }

  async load() {
    const name = this.range, [step, seconds] = RANGES[name];
    const now = Math.ceil(Date.now() / 60_000) * 60_000;
    const times = { since: new Date(now - seconds * 1000).toISOString(), until: new Date(now).toISOString() };
    const [{ series }, { anomalies }] = await Promise.all([read("/v1/series", { step, ...times }), step === "hour" ? read("/v1/anomalies", times) : { anomalies: [] }]);
    if (this.range === name) this.chart(series, step, anomalies);
  }

  chart(rows, step, found = []) {
    const marks = found.map(unusual), of = (what) => marks.filter((one) => one.what === what);
    this.calls.show(rows, step, of("failures"));
    this.cost.show(rows, step, of("spend"));
    this.times.show(rows, step);
  }

  show(data) {
    this.data = data;
    const found = findings(data);
    const total = sum(data.minutes);
    draw(this.verdict, { found, quiet: total.calls === 0, hour: total.cost_cents, month: data.month.cost_cents }, () => verdict(found, total, data.month, this.session));
    draw(this.numbers, [data.minutes, data.month, data.p50_ms, data.p95_ms, data.under_way], () => numbers(data, total));
    if (this.range === "1 h") this.chart(data.minutes, "minute");
    const may = this.session.may_order;
    draw(this.places.caps, [data.caps, data.quotas ?? []], ([limits, quotas]) => caps(limits, quotas, may));
    draw(this.places.reasons, data.reasons, reasons);
    draw(this.places.stops, [data.switches, data.shutoffs, data.breakers, data.models], () => stops(data, may));
    draw(this.places.log, data.lag ?? [], log);
    draw(this.places.letters, data.dead_letters ?? {}, (letters) => deadLetters(letters, may));
    draw(this.places.uncertain, data.uncertain, (held) => uncertain(held, this.session));
  }
}

function verdict(found, total, month, session) {
  const worst = found.length ? found.some((one) => one.level === "bad") ? "bad" : "warn" : "ok";
  const title = found.length ? `${plural(found.length, "thing")} ${found.length === 1 ? "needs" : "need"} attention` : "All is well";
  const cost = `${money(total.cost_cents)} spent in the last hour, ${money(month.cost_cents)} this month.`;
  const calm = total.calls ? "Calls flow, nothing is stopped, no limit is near. " : "No calls in the last hour. Nothing is stopped, no limit is near. ";
  return [
    h(`div.headline.${worst}`, {}, h("span.light", { "aria-hidden": "true" }), h("div", {}, h("p.title", { role: "status" }, title), h("p", {}, found.length ? cost : calm + cost))),
    found.length ? h("ul.findings", {}, found.map((one) => h(`li.${one.level}`, {},
      h("span.level", {}, one.level === "bad" ? "Urgent" : "Look"),
      h("div", {}, h("strong", {}, one.title), h("span.detail", {}, one.detail)),
      one.act && (session.may_order || ["goto", "failed"].includes(one.act.kind)) ? h("button.small", { type: "button", "data-key": `do ${one.key}`, onclick: () => act(one.act.kind, one.act.row ?? one.act), "aria-label": `${one.act.label}: ${one.title}` }, one.act.label) : null))) : null,
  ];
}

function numbers(data, total) {
  const each = (field) => data.minutes.map((minute) => Number(minute[field]));
  const calls = data.minutes.map((minute) => Number(minute.success) + Number(minute.blocked) + Number(minute.failed) + Number(minute.pending));
  const number = (label, value, below, drawing) => h("div.number", {}, h("h2", {}, label), h("p.value", {}, value), h("p.below", {}, below), drawing);
  return [
    number("Spent in the last hour", money(total.cost_cents), `${money(sum(data.minutes.slice(-5)).cost_cents / 5)} a minute now`, sparkline(each("cost_cents"), "Cost by minute")),
    number("Calls in the last hour", count(total.calls), `${count(Math.round(sum(data.minutes.slice(-5)).calls / 5))} a minute now, ${count(data.under_way)} under way`, sparkline(calls, "Calls by minute")),
    number("Blocked", count(total.blocked), `${percent(total.blocked, total.calls)} of calls; ${count(total.failed)} failed`, sparkline(each("blocked"), "Blocked by minute")),
    number("Response time, p95 (15 min)", duration(data.p95_ms), `median ${duration(data.p50_ms)}; ${percent(total.cached, total.success)} from the cache`),
  ];
}

function caps(limits, quotas, may) {
  const fullest = [...limits.map((row) => [row, limitLine]), ...quotas.map((row) => [row, quotaLine])].sort(([a], [b]) => b.used_pct - a.used_pct).slice(0, 6);
  if (!fullest.length) return h("p.empty", {}, "Nothing is used of a limit or a quota in this hour or month.");
  return [h("ul.meters", {}, fullest.map(([row, drawn]) => drawn(row, may))), h("div.foot", {}, h("a", { href: "#/limits" }, "All limits and quotas"))];
}

function limitLine(row, may) {
  return h("li", {},
    h("div.line", {}, h("span", {}, row.scope === "tenant" ? "Tenant " : "User ", row.scope === "tenant" ? id(row.tenant_id, "tenant") : user(row), h("span.muted", {}, ` this ${row.budget_window}`)),
      h("span.amount", {}, h("b", {}, money(Number(row.spent_cents) + Number(row.reserved_cents))), h("span.muted", {}, ` of ${money(row.cap_cents)}`)),
      may ? h("button.link", { type: "button", "data-key": `limit ${row.owner} ${row.tenant_id} ${row.budget_window}`, "aria-label": `Change limits of ${row.scope} ${short(row.user_id ?? row.tenant_id)}`, onclick: () => act("limits", row) }, "Change") : null),
    meter((100 * row.spent_cents) / row.cap_cents, row.used_pct));
}

function quotaLine(row, may) {
  return h("li", {},
    h("div.line", {}, h("span", {}, "Quota of ", id(row.tenant_id, "tenant"), h("span.muted", {}, ` ${quotaScope(row)}`), row.shadow ? [" ", h("span.tag", {}, "shadow")] : null),
      h("span.amount", {}, h("b", {}, quotaUsed(row)), h("span.muted", {}, ` of ${quotaLimit(row)}`)),
      may ? h("button.link", { type: "button", "data-key": `quota ${row.tenant_id} ${quotaScope(row)} ${row.unit} ${row.window}`, "aria-label": `Change the quota of ${quotaScope(row)}, ${quotaLimit(row)}`, onclick: () => act("quota.set", row) }, "Change") : null),
    quotaMeter(row));
}

function reasons(rows) {
  if (!rows.length) return h("p.empty", {}, "In the last hour every call was answered.");
  const most = Math.max(...rows.map((row) => row.calls));
  return h("ul.meters", {}, rows.slice(0, 7).map((row) => {
    const fill = h(`i.fill.${row.status === "failed" ? "bad" : "warn"}`);
    fill.style.width = `${(100 * row.calls) / most}%`;
    return h("li", {}, h("div.line", {}, h("a", { href: `#/requests?status=${row.status}&reason=${encodeURIComponent(row.reason ?? "")}&age=3600` }, words(row.reason)), h("span.muted", {}, row.status), h("b.amount", {}, count(row.calls))),
      h("div.meter", { "aria-hidden": "true" }, fill));
  }));
}

function stops({ switches, shutoffs, breakers, models = [] }, may) {
  if (!models.length && !switches.length && !shutoffs.length && !breakers.length) return h("p.empty", {}, "No kill switch, no shutoff, every breaker closed.");
  const row = (what, whom, why, time, button) => line(cell("td.nowrap", "Stop", what), cell("td.nowrap", "For", whom), cell("td.wide", "Why", why, h("span.muted", {}, ` ${time}`)), cell("td.end", null, button));
  const release = (kind, one, key) => (may ? h("button.link", { type: "button", "data-key": key, onclick: () => act(kind, one) }, "Release") : null);
  return scrolled("Stops in force", stacked(["Stop", "For", "Why", ""], [
    switches.map((one) => row("Kill switch", scopeWords(one), `${one.reason}, by ${one.actor}`, ago(one.changed_at), release("release", one, `switch ${one.scope_key}`))),
    models.map((one) => row(`Breaker ${words(one.state)}`, `${one.provider}:${one.model}`, one.reason, ago(one.since), may ? h("button.link", { type: "button", "data-key": `model ${one.provider}:${one.model}`, onclick: () => act("model.reset", one) }, "Reset") : null)),
    shutoffs.map((one) => row("Shutoff", ["user ", user(one)], words(one.reason), one.disabled_until ? `until ${clock(one.disabled_until)}` : "", one.manual_engaged ? release("shutoff.release", one, `shutoff ${one.user_id}`) : null)),
    breakers.map((one) => row(`Breaker ${words(one.state)}`, ["user ", user(one)], `${words(one.reason)}; ${plural(one.failure_count, "failure")}`, ago(one.updated_at), null))]));
}

function log(rows) {
  if (!rows.length) return null;
  const worst = (name) => Math.max(...rows.map((row) => row[name])) * 1000;
  const reader = (name, what, ms) => h("div", {}, h("dt", {}, name), h(`dd${ms > 30_000 ? ".bad" : ms > 5000 ? ".warn" : ""}`, {}, ms < 1000 ? "up to date" : duration(ms)), h("dd.muted", {}, what));
  return h("dl.facts", {}, reader("Policy", "decides", worst("policy_s")), reader("Executors", "call", worst("executor_s")), reader("Ledger", "writes the books", worst("ledger_s")),
    h("div", {}, h("dt", {}, "Under way"), h("dd", {}, count(rows.reduce((all, row) => all + row.in_flight, 0))), h("dd.muted", {}, `over ${plural(rows.length, "partition")}`)));
}

function deadLetters({ newest = [], waiting = 0 }, may) {
  if (!waiting) return h("p.empty", {}, "None. What cannot be processed would wait here.");
  return scrolled("Dead letters", stacked(["From", "Why", ""], newest.slice(0, 6).map((one) =>
    line(cell("td", "From", h("code", { title: one.entry_id }, one.origin.replace("skeldir:", ""))), cell("td.wide", "Why", one.reason, may && RETURNABLE.test(one.origin) ? null : h("code.command", { title: "From a shell" }, `skeldir dead-letters retry ${one.letter_id}`)),
      cell("td.end", null, may && RETURNABLE.test(one.origin)
        ? [h("button.link", { type: "button", "data-key": `retry ${one.letter_id}`, onclick: () => act("letter.retry", one) }, "Retry"), " ", h("button.link", { type: "button", "data-key": `discard ${one.letter_id}`, onclick: () => act("letter.discard", one) }, "Discard")]
        : null)))),
    waiting > 6 ? h("p.muted", {}, `and ${count(waiting - 6)} more: skeldir dead-letters list`) : null);
}

function uncertain(held, session) {
  if (!held?.attempts) return h("p.empty", {}, "None. Of every call it is known how it ended.");
  return [h("p.lead", {}, h("b", {}, money(held.held_cents)), ` is held for ${plural(held.attempts, "attempt")} whose end nobody knows.`),
    h("p.muted", {}, session.role === "operator" ? ["Compare with the provider's account, then settle each: ", h("code.command", {}, "skeldir reconcile")] : "An operator settles each by the provider's account."),
    h("p", {}, h("a", { href: "/v1/uncertain?format=csv", download: "uncertain.csv" }, "Download the list"))];
}
