// What an operator can do. Each order is shown with what it would do, then given, then said aloud.

import { UUID, TASK_TYPES, cancel, cents, choice, confirm, field, form, give, input, open, reasonField } from "./dialog.js";
import { h } from "./dom.js";
import { count, money, plural, scopeOf, scopeWords, short } from "./format.js";
import { setBounds, setQuota, unsetBounds, unsetDowngrade, unsetQuota } from "./rules.js";
import { reach } from "./server.js";

/** Begin an action; `subject` is the row that it is about. */
export function act(kind, subject = {}) {
  const doing = {
    stop: () => stopCalls(subject.tenant_id ? { scope: "tenant", tenant_id: subject.tenant_id } : undefined),
    shutoff: () => shutOff(subject),
    limits: () => setLimits(subject),
    release: () => confirm(`Release the kill switch on ${scopeWords(subject)}?`, "Calls in its scope start again at once.", "Release", { type: "kill_switch.released", scope: scopeOf(subject) }),
    "shutoff.release": () => confirm(`Release the shutoff of user ${short(subject.user_id)}?`, "The user's calls start again, as far as their limits allow.", "Release", { type: "shutoff.released", scope: scopeOf(subject) }),
    "model.reset": () => confirm(`Reset the breaker of ${subject.provider}:${subject.model}?`, "Its calls start again at once, for every tenant; what it has counted is forgotten.", "Reset", { type: "provider_breaker.reset", provider: subject.provider, model: subject.model }),
    "letter.retry": () => confirm("Retry this dead letter?", `${subject.origin} ${subject.entry_id}: it is taken in again, then those of the same task behind it.`, "Retry", { type: "dead_letter.retried", origin: subject.origin, entry_id: subject.entry_id }),
    "letter.discard": () => confirm("Discard this dead letter for good?", `${subject.origin} ${subject.entry_id} is given up; those behind it are taken in.`, "Discard", { type: "dead_letter.discarded", origin: subject.origin, entry_id: subject.entry_id }, true),
    "quota.set": () => setQuota(subject),
    "quota.unset": () => unsetQuota(subject),
    "bounds.set": () => setBounds(subject),
    "bounds.unset": () => unsetBounds(subject),
    "downgrade.unset": () => unsetDowngrade(subject),
    goto: () => { const place = document.getElementById(subject.place); place?.scrollIntoView({ block: "center" }); place?.focus({ preventScroll: true }); },
    failed: () => { location.hash = "#/requests?status=failed&age=900"; },
  };
  doing[kind]();
}

const SCOPES = {
  everything: ["Everything, everywhere", []],
  tenant: ["One tenant", ["tenant_id"]],
  user: ["One user", ["tenant_id", "user_id"]],
  model: ["A provider, or one of its models", ["provider", "model"]],
  task_type: ["One type of task", ["task_type"]],
};
const LABELS = { tenant_id: "Tenant id", user_id: "User id", provider: "Provider", model: "Model" };
const LASTS = { "": "until somebody releases it", 15: "15 minutes", 60: "1 hour", 480: "8 hours" };

function stopCalls(kept = { scope: "everything" }) {
  const parts = h("div");
  const scope = choice("scope", Object.fromEntries(Object.entries(SCOPES).map(([value, [text]]) => [value, text])), kept.scope, { onchange: () => fill() });
  const lasts = choice("minutes", LASTS, kept.minutes);
  const part = (name) => name === "task_type"
    ? field("Type", choice(name, Object.fromEntries(TASK_TYPES.map((value) => [value, value])), kept[name]))
    : field(LABELS[name], input(name, { required: name !== "model", value: kept[name] ?? "", pattern: name.endsWith("_id") ? UUID : null, title: name.endsWith("_id") ? "A UUID" : null }));
  const fill = () => parts.replaceChildren(...SCOPES[scope.value][1].map(part));
  fill();
  const reason = reasonField();
  reason.querySelector("input").value = kept.reason ?? "";
  open("Stop calls", h("p", {}, "A kill switch: within milliseconds no new call starts in its scope, the backlog included."),
    form((filled) => review(filled), [field("Stop", scope), parts, field("For", lasts), reason], cancel(), h("button.primary", { type: "submit" }, "See what it would stop")));
  reason.querySelector("input").focus();
}

/** The confirming step: what it would stop, before it does. */
async function review(filled) {
  const scope = scopeOf(Object.fromEntries(SCOPES[filled.scope][1].map((name) => [name, filled[name]])));
  const until = filled.minutes ? new Date(Date.now() + filled.minutes * 60_000).toISOString() : null;
  const order = { type: "kill_switch.engaged", scope, reason: filled.reason, ...(until ? { until } : {}) };
  const found = await reach(order);
  const stop = h("button.danger", { type: "submit" }, `Stop ${filled.scope === "everything" ? "everything" : "these calls"} now`);
  const fact = (value, text) => h("div", {}, h("dd", {}, value), h("dt", {}, text));
  open(`Stop ${scopeWords(scope)}?`,
    h("dl.reach", {}, fact(count(found.under_way), found.under_way === 1 ? "task under way" : "tasks under way"), fact(count(found.calls), "provider calls in the last hour"), fact(money(found.cost_cents), "spent in the last hour")),
    h("p", {}, `It concerns ${plural(found.users, "user")} of ${plural(found.tenants, "tenant")}, by the last hour. New calls are blocked ${until ? `until ${new Date(until).toLocaleTimeString("en-GB")}` : "until somebody releases the switch"}; an answer that is being streamed is cut.`),
    h("p.muted", {}, `Reason: ${filled.reason}`),
    form(() => give(order, "The kill switch is on. No new call starts in its scope."), [], h("button", { type: "button", onclick: () => stopCalls(filled) }, "Back"), stop));
  stop.focus();
}

function shutOff(row) {
  open(`Shut user ${short(row.user_id)} off`, h("p", {}, "Blocks this one user's calls until it ends, or is released."),
    form(({ reason, minutes }) => give({ type: "shutoff.engaged", scope: { tenant_id: row.tenant_id, user_id: row.user_id }, reason, ...(minutes ? { minutes: Number(minutes) } : {}) }, "The user is shut off."),
      [field("For", choice("minutes", { "": "the rest of this hour", 15: "15 minutes", 60: "1 hour", 1440: "1 day" })), reasonField()],
      cancel(), h("button.danger", { type: "submit" }, "Shut off")));
}

function setLimits(row) {
  const known = row.owner !== undefined || row.user_id !== undefined;
  const whose = row.user_id ? `user ${short(row.user_id)}` : row.tenant_id ? `tenant ${short(row.tenant_id)}` : "a tenant or a user";
  const now = { hour: row.hourly_cents ?? (row.budget_window === "hour" ? row.cap_cents : null), month: row.monthly_cents ?? (row.budget_window === "month" ? row.cap_cents : null) };
  const amount = (name, label, cap) => field(label, input(name, { type: "number", min: 0, step: "any", inputmode: "decimal", placeholder: "as it is" }), cap === null ? null : `now ${money(cap)}`);
  open(`Limits of ${whose}`, h("p.muted", {}, "What is left empty stays as it is. A lower limit holds for the next decision."),
    form(({ hourly, monthly, max_in_flight: most, reason, tenant_id, user_id }) => {
      const order = { type: "limits.set", scope: scopeOf({ tenant_id: row.tenant_id ?? tenant_id, user_id: row.user_id ?? user_id }), reason };
      if (hourly) order.hourly_cents = cents(hourly);
      if (monthly) order.monthly_cents = cents(monthly);
      if (most) order.max_in_flight = Number(most);
      return give(order, `The limits of ${whose} are set.`);
    }, [row.tenant_id ? null : field("Tenant id", input("tenant_id", { required: true, pattern: UUID, title: "A UUID" })),
      known ? null : field("User id", input("user_id", { pattern: UUID, title: "A UUID", placeholder: "the tenant as a whole" })),
      h("div.columns", {}, amount("hourly", "Dollars an hour", now.hour), amount("monthly", "Dollars a month", now.month)),
      field("Tasks under way at once", input("max_in_flight", { type: "number", min: 0, step: 1, placeholder: "as it is" }), row.max_in_flight === undefined || row.max_in_flight === null ? null : `now ${row.max_in_flight}`), reasonField("It is recorded with your key.")],
    row.user_id ? h("button.link.danger", { type: "button", onclick: () => shutOff(row) }, "Shut this user off instead") : null, cancel(), h("button.primary", { type: "submit" }, "Set")));
}
