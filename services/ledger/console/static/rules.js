// What bounds calls beside limits: quotas, bounds of single tasks, cheaper models near a budget's end. In words, and as orders.

import { TASK_TYPES, UUID, cancel, cents, choice, confirm, field, form, give, input, open, reasonField } from "./dialog.js";
import { h, meter } from "./dom.js";
import { count, duration, exactly, money, plural, scopeOf, scopeWords, short, words } from "./format.js";

const UNITS = { calls: "calls", tokens: "tokens", cents: "dollars", max_in_flight: "tasks at once" };
const WINDOWS = { minute: "a minute", hour: "an hour", day: "a day", month: "a month" };
const TYPES = Object.fromEntries(TASK_TYPES.map((value) => [value, words(value)]));
const NAMES = { calls: "calls", tokens: "tokens", money: "cents", in_flight: "max_in_flight" };

/** Whom and what a quota is for, without its tenant. */
export function quotaScope(row) {
  return scopeWords({ ...row, tenant_id: null }, "the whole tenant");
}

/** What it has counted in the window that is open, as an amount of its unit. */
export const quotaUsed = (row) => (row.unit === "money" ? money(Number(row.spent) + Number(row.reserved)) : count(row.spent + row.reserved));
export const quotaMeter = (row) => meter(row.limit ? (100 * row.spent) / row.limit : 0, row.used_pct ?? 0);

export function quotaLimit(row) {
  if (row.unit === "in_flight") return `${plural(row.limit, "task")} at once`;
  return `${row.unit === "money" ? exactly(row.limit) : plural(row.limit, row.unit.replace(/s$/, ""))} ${WINDOWS[row.window]}`;
}

export const boundsWords = (row) => [
  row.timeout_ms === null ? null : duration(row.timeout_ms),
  row.max_cost_cents === null ? null : exactly(row.max_cost_cents),
  row.max_tool_calls === null ? null : plural(row.max_tool_calls, "tool call"),
].filter(Boolean).join(", ");

const tenant = (row) => (row.tenant_id ? null : field("Tenant id", input("tenant_id", { required: true, pattern: UUID, title: "A UUID" })));
const recorded = () => reasonField("It is recorded with your key.");

/** A new quota, or another limit for the scope, unit and window of a row. */
export function setQuota(row) {
  const known = row.unit !== undefined;
  const per = field("Per", choice("window", WINDOWS, row.window ?? "hour"));
  const unit = choice("unit", UNITS, NAMES[row.unit] ?? "calls", { onchange: () => { per.hidden = unit.value === "max_in_flight"; } });
  const amount = input("amount", { required: true, inputmode: "decimal", value: known ? (row.unit === "money" ? exactly(row.limit).slice(1) : row.limit) : "", pattern: "\\d*\\.?\\d+", title: "A number" });
  const shadow = h("input", { type: "checkbox", name: "shadow", id: "d-shadow", checked: Boolean(row.shadow) });
  const scope = known ? h("p.muted", {}, `For ${quotaScope(row)}. It goes on counting under the new limit.`) : [
    tenant(row),
    h("p.muted", {}, "It bounds what is in all parts of the scope together; what is left empty is any."),
    h("div.columns", {}, field("User id", input("user_id", { pattern: UUID, title: "A UUID" })), field("API key, by its id", input("key_id", { pattern: "[A-Za-z0-9_\\-]{4,40}", title: "key_…" }))),
    h("div.columns", {}, field("Task type", choice("task_type", { "": "any", ...TYPES })), field("Model", input("model", { placeholder: "openai:gpt-4o-mini" }))),
  ];
  open(known ? "Change a quota" : "Add a quota", form((filled) => {
    const of = known ? { ...scopeOf(row), ...(row.key_id ? { key_id: row.key_id } : {}) }
      : Object.fromEntries(Object.entries({ tenant_id: row.tenant_id ?? filled.tenant_id, user_id: filled.user_id, key_id: filled.key_id, task_type: filled.task_type, model: filled.model }).filter(([, value]) => value));
    const name = known ? NAMES[row.unit] : filled.unit, window = known ? row.window : filled.window;
    const most = name === "cents" ? cents(filled.amount) : Number(filled.amount);
    const order = { type: "quota.set", scope: of, [name]: most, reason: filled.reason, mode: filled.shadow ? "shadow" : "enforce" };
    return give(name === "max_in_flight" ? order : { ...order, window }, "The quota is set. It counts from now on.");
  }, [scope, h("div.columns", {}, field("At most", amount), known ? h("p.hint.beside", {}, quotaLimit(row).replace(/^\S+ /, "")) : field("Of", unit)), known ? null : per,
    h("div.check", {}, shadow, h("label", { for: "d-shadow" }, "Only record what it would block (shadow)")), recorded()], cancel(), h("button.primary", { type: "submit" }, "Set")));
}

export const unsetQuota = (row) => confirm("Remove this quota?", `${quotaLimit(row)}, for ${quotaScope(row)}. Set again, it begins at nothing.`, "Remove",
  { type: "quota.unset", scope: { ...scopeOf(row), ...(row.key_id ? { key_id: row.key_id } : {}) }, unit: row.unit, ...(row.window ? { window: row.window } : {}) });

/** Bounds of each single task of a type. */
export function setBounds(row) {
  const whole = (name, label, now) => field(label, input(name, { type: "number", min: name === "timeout_s" ? 0.001 : 0, step: name === "max_tool_calls" ? 1 : "any", placeholder: "as it is" }), now);
  open("Bounds of a single task", h("p.muted", {}, "Each task of the type by itself. What is left empty stays as it is."), form((filled) => {
    const order = { type: "bounds.set", scope: { ...(row.tenant_id ?? filled.tenant_id ? { tenant_id: row.tenant_id ?? filled.tenant_id } : {}), task_type: row.task_type ?? filled.task_type }, reason: filled.reason };
    if (filled.timeout_s) order.timeout_ms = Math.round(1000 * filled.timeout_s);
    if (filled.max_cost) order.max_cost_cents = cents(filled.max_cost);
    if (filled.max_tool_calls) order.max_tool_calls = Number(filled.max_tool_calls);
    return give(order, "The bounds are set, for tasks that are decided from now on.");
  }, [row.task_type ? h("p", {}, `${words(row.task_type)}, ${row.tenant_id ? `tenant ${short(row.tenant_id)}` : "every tenant"}`)
    : [row.tenant_id ? null : field("Tenant id", input("tenant_id", { pattern: UUID, title: "A UUID", placeholder: "every tenant" })), field("Task type", choice("task_type", TYPES))],
  h("div.columns", {}, whole("timeout_s", "Seconds", row.timeout_ms ? `now ${duration(row.timeout_ms)}` : null), whole("max_cost", "Dollars", row.max_cost_cents ? `now ${exactly(row.max_cost_cents)}` : null)),
  whole("max_tool_calls", "Tool calls in its conversation", row.max_tool_calls === null || row.max_tool_calls === undefined ? null : `now ${row.max_tool_calls}`), recorded()],
  cancel(), h("button.primary", { type: "submit" }, "Set")));
}

export const unsetBounds = (row) => confirm("Remove these bounds?", `${words(row.task_type)}, ${row.tenant_id ? `tenant ${short(row.tenant_id)}` : "every tenant"}: ${boundsWords(row)}.`, "Remove",
  { type: "bounds.unset", scope: scopeOf({ tenant_id: row.tenant_id, task_type: row.task_type }) });

export const unsetDowngrade = (row) => confirm("Remove this rule?", `Calls to ${row.model} go to ${row.model} again, however much is spent.`, "Remove",
  { type: "downgrade.unset", scope: scopeOf({ tenant_id: row.tenant_id, user_id: row.user_id, task_type: row.task_type }), model: row.model, window: row.window });
