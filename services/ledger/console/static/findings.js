// What is wrong, out of the overview: the first thing that a person reads. Pure, so that it can be reasoned about.

import { unusual } from "./charts.js";
import { ago, count, duration, ending, money, percent, plural, scopeWords, short, words } from "./format.js";
import { quotaLimit, quotaScope, quotaUsed } from "./rules.js";

const FULL = 100, NEAR = 80, SLOW_S = 5, STUCK_S = 30, FAILING = 0.2, ENOUGH = 10;

/** The problems, worst first: {level: "bad" | "warn", title, detail, act?: {kind, row}}. */
export function findings(data) {
  return [...stops(data), ...spending(data), ...quotas(data), ...models(data), ...breakers(data), ...failing(data), ...odd(data), ...log(data)]
    .sort((a, b) => (a.level === b.level ? 0 : a.level === "bad" ? -1 : 1));
}

function stops({ switches = [], shutoffs = [], caps = [] }) {
  // Who is shut off by their limit is named with the limit.
  const full = new Set(caps.filter((row) => row.used_pct >= FULL && row.budget_window === "hour").map((row) => row.user_id));
  const others = shutoffs.filter((row) => row.manual_engaged || !full.has(row.user_id));
  return [
    ...switches.map((row) => ({
      key: `switch ${row.scope_key}`,
      level: "bad",
      title: `Kill switch on: ${scopeWords(row)}`,
      detail: `“${row.reason}”, by ${row.actor}, ${ago(row.changed_at)}`,
      act: { kind: "release", label: "Release", row },
    })),
    ...some(others, 2, (row) => ({
      key: `shutoff ${row.user_id}`,
      level: "warn",
      title: `User ${short(row.user_id)} is shut off`,
      detail: `${words(row.reason)}; until ${row.disabled_until ? new Date(row.disabled_until).toLocaleTimeString("en-GB") : "released"}`,
      act: row.manual_engaged ? { kind: "shutoff.release", label: "Release", row } : null,
    }), (n) => ({ key: "shutoffs", level: "warn", title: `${count(n)} users are shut off`, detail: "By a limit of theirs, or by an operator.", act: goto("stops") })),
  ];
}

function spending({ caps = [] }) {
  const near = caps.filter((row) => row.used_pct >= NEAR);
  return some(near, 2, (row) => ({
    key: `cap ${row.owner} ${row.tenant_id} ${row.budget_window}`,
    level: row.used_pct >= FULL && row.scope === "tenant" ? "bad" : "warn",
    title: `${row.scope === "tenant" ? `Tenant ${short(row.tenant_id)}` : `User ${short(row.user_id)}`} ${row.used_pct >= FULL ? "has reached" : `has used ${Math.floor(row.used_pct)} % of`} its ${row.budget_window}ly limit`,
    detail: `${money(row.spent_cents)} spent, ${money(row.reserved_cents)} reserved, of ${money(row.cap_cents)}`,
    act: { kind: "limits", label: "Limits", row },
  }), (n) => ({
    key: "caps",
    level: near.some((row) => row.used_pct >= FULL && row.scope === "tenant") ? "bad" : "warn",
    title: `${count(n)} limits are near or reached`,
    detail: `${near.filter((row) => row.used_pct >= FULL).length} reached`,
    act: goto("spend"),
  }));
}

/** Quotas in shadow mode stop nobody, and one that is full for a minute is a pace, no trouble. */
function quotas({ quotas: rows = [] }) {
  const near = rows.filter((row) => !row.shadow && row.window !== "minute" && row.used_pct >= NEAR), full = (row) => row.used_pct >= FULL;
  const level = (row) => (full(row) && quotaScope(row) === quotaScope({}) ? "bad" : "warn");
  return some(near, 2, (row) => ({
    key: `quota ${row.tenant_id} ${quotaScope(row)} ${row.unit} ${row.window}`,
    level: level(row),
    title: `A quota of tenant ${short(row.tenant_id)} ${full(row) ? "is reached" : `is ${Math.floor(row.used_pct)} % used`}: ${quotaScope(row)}`,
    detail: `${quotaUsed(row)} of ${quotaLimit(row)}${row.resets_at ? `; it resets ${ending(row.resets_at)}` : ""}`,
    act: { kind: "quota.set", label: "Quota", row },
  }), (n) => ({
    key: "quotas",
    level: near.some((row) => level(row) === "bad") ? "bad" : "warn",
    title: `${count(n)} quotas are near or reached`,
    detail: `${count(near.filter(full).length)} reached`,
    act: goto("spend"),
  }));
}

function models({ models = [] }) {
  return models.map((row) => ({
    key: `model ${row.provider}:${row.model}`,
    level: row.state === "open" ? "bad" : "warn",
    title: `${row.provider}:${row.model} is cut off for everyone: breaker ${words(row.state)}`,
    detail: `${row.reason}, ${ago(row.since)}`,
    act: { kind: "model.reset", label: "Reset", row },
  }));
}

function breakers({ breakers = [] }) {
  return some(breakers, 2, (row) => ({
    key: `breaker ${row.user_id} ${row.breaker_key}`,
    level: "warn",
    title: `Breaker ${words(row.state)} for user ${short(row.user_id)}`,
    detail: `${plural(row.failure_count, "failure")} in a row; ${words(row.reason)}, ${ago(row.updated_at)}`,
    act: goto("stops"),
  }), (n) => ({ key: "breakers", level: "warn", title: `${count(n)} breakers are open`, detail: "The provider fails for these users.", act: goto("stops") }));
}

function failing({ minutes = [] }) {
  const recent = sum(minutes.slice(-5));
  const failed = recent.failed, ended = recent.success + recent.failed;
  if (ended < ENOUGH || failed / ended < FAILING) return [];
  return [{ key: "failing", level: "bad", title: `${percent(failed, ended)} of calls fail`, detail: `${count(failed)} of ${count(ended)} in the last five minutes`, act: { kind: "failed", label: "Show" } }];
}

/** What was far from the usual for its hour: the last of each kind. */
function odd({ unusual: found = [] }) {
  return ["spend", "failures"].map((what) => found.findLast((one) => one.what === what)).filter(Boolean).map((one) => {
    const said = unusual(one);
    return { key: `unusual ${one.what}`, level: "warn", title: said.title, detail: `${said.text}, by the median of ${plural(one.days, "day")}`, act: goto(one.what === "spend" ? "cost" : "calls") };
  });
}

function log({ lag = [], dead_letters: letters, uncertain }) {
  const found = [];
  for (const [reader, name, what] of [["policy_s", "Policy", "decisions wait"], ["executor_s", "Executors", "calls wait"], ["ledger_s", "The ledger", "what you see is old"]]) {
    const worst = Math.max(0, ...lag.map((row) => row[reader]));
    if (worst > SLOW_S) found.push({ key: reader, level: worst > STUCK_S ? "bad" : "warn", title: `${name} ${name === "Executors" ? "are" : "is"} ${duration(worst * 1000)} behind`, detail: `${what}; look at skeldir doctor` });
  }
  if (letters?.waiting) found.push({ key: "letters", level: "warn", title: plural(letters.waiting, "dead letter"), detail: "Entries that could not be processed wait for a person.", act: goto("letters") });
  if (uncertain?.attempts) found.push({ key: "uncertain", level: "warn", title: plural(uncertain.attempts, "uncertain attempt"), detail: `${money(uncertain.held_cents)} is held as perhaps spent, until skeldir reconcile`, act: goto("uncertain") });
  return found;
}

const goto = (place) => ({ kind: "goto", label: "Show", place });

/** Each by itself while they are few; else all in one line. */
const some = (rows, few, one, all) => (rows.length <= few ? rows.map(one) : [all(rows.length)]);

/** Sums over minutes. */
export function sum(minutes) {
  const total = { success: 0, blocked: 0, failed: 0, pending: 0, cached: 0, cost_cents: 0 };
  for (const minute of minutes) for (const name of Object.keys(total)) total[name] += Number(minute[name]);
  return { ...total, calls: total.success + total.blocked + total.failed + total.pending };
}
