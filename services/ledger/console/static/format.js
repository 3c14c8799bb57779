// How numbers, times and names read. Amounts come in cents and are shown in dollars.

const whole = new Intl.NumberFormat("en-US");
const cents = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD" });
const large = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumFractionDigits: 0 });

export const count = (number) => whole.format(number ?? 0);

export function money(amount) {
  if (amount === null || amount === undefined) return "–";
  const dollars = Number(amount) / 100;
  if (dollars === 0) return "$0";
  if (Math.abs(dollars) >= 10000) return large.format(dollars);
  if (Math.abs(dollars) >= 0.1) return cents.format(dollars);
  return `$${Number(dollars.toPrecision(2)).toFixed(8).replace(/0+$/, "")}`;
}

/** To the last unit, where a limit was missed by little. */
export const exactly = (amount) => `$${(Number(amount) / 100).toFixed(8).replace(/(\.\d{2}\d*?)0+$/, "$1")}`;

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`;
  if (ms < 86_400_000) return `${Math.floor(ms / 3_600_000)} h ${Math.floor((ms % 3_600_000) / 60_000)} min`;
  return `${Math.floor(ms / 86_400_000)} d`;
}

export const ago = (time, now = Date.now()) => `${duration(Math.max(0, now - new Date(time)))} ago`;
export const clock = (time) => new Date(time).toLocaleTimeString("en-GB");
/** When a window ends: the time, and the day where it is another. */
export function ending(time, now = Date.now()) {
  const at = new Date(time), today = at.toDateString() === new Date(now).toDateString();
  return today ? clock(time).slice(0, 5) : at.toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}
export const moment = (time) => (time ? new Date(time).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) : "–");
/** In whose time these are: the browser's, beside the command line's UTC. */
export const zone = (time = Date.now()) => new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(new Date(time)).find((part) => part.type === "timeZoneName").value;
export const zoned = (time) => (time ? `${moment(time)} ${zone(time)}` : "–");
export const short = (id) => (id ? String(id).slice(0, 8) : "–");
export const percent = (part, of) => (of ? `${Math.round((100 * part) / of)} %` : "0 %");
export const words = (name) => String(name ?? "").replaceAll("_", " ").replace(/^provider kill switch$/, "kill switch").replace(/:/, ": ");
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** What a kill switch or a quota covers, in words; `whole` where nothing narrows it. */
export function scopeWords(scope, whole = "everything") {
  const parts = [
    scope.user_id ? `user ${short(scope.user_id)}` : null,
    scope.tenant_id ? `tenant ${short(scope.tenant_id)}` : null,
    scope.model ? `model ${scope.provider ? `${scope.provider}:` : ""}${scope.model}` : scope.provider ? `provider ${scope.provider}` : null,
    scope.task_type ? `${words(scope.task_type)} tasks` : null,
    scope.key_id ? `key ${scope.key_id}` : null,
  ].filter(Boolean);
  return parts.length ? parts.join(", ") : whole;
}

export const scopeOf = (row) =>
  Object.fromEntries(["tenant_id", "user_id", "provider", "model", "task_type"].filter((key) => row[key]).map((key) => [key, row[key]]));
