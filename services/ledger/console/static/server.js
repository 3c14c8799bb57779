// What the page asks of the ledger service: its own session, the read API, the live stream, orders.

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const RETRY_MS = 3000;

let csrf = null;

async function answer(reply) {
  const body = reply.headers.get("content-type")?.includes("json") ? await reply.json() : {};
  if (!reply.ok) throw new Refusal(reply.status, body.detail ?? `the service answered ${reply.status}`);
  return body;
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch {
    throw new Refusal(0, "the ledger service cannot be reached");
  }
  return answer(reply);
}

const post = (path, body) =>
  ask(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", ...(csrf ? { "X-CSRF-Token": csrf } : {}) },
  });

function remembered(session) {
  csrf = session.csrf ?? null;
  return session;
}

export const session = async () => remembered(await ask("/console/session"));
export const login = async (key) => remembered(await post("/console/login", { key }));
export const logout = async () => remembered(await post("/console/logout", {}));
export const reach = (order) => post("/console/reach", order);
export const publish = (order) => post("/console/orders", order);

/** A question to the read API; parameters without a value are left out. */
export function read(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return ask(`${path}${query.size ? `?${query}` : ""}`);
}

/** Follow the overview; the returned function ends it. */
export function follow({ overview, problem, refused }) {
  const source = new EventSource("/console/live");
  let again = null, next = null, ended = false;
  source.addEventListener("overview", (event) => overview(JSON.parse(event.data)));
  source.addEventListener("problem", (event) => problem(JSON.parse(event.data).detail));
  source.addEventListener("refused", (event) => {
    source.close();
    refused(JSON.parse(event.data).detail);
  });
  source.addEventListener("error", () => {
    problem("not connected; trying again");
    // Closed for good by an answer: the login has ended, or the service cannot answer just now.
    if (source.readyState === EventSource.CLOSED) again = setTimeout(retry, RETRY_MS);
  });

  async function retry() {
    const known = await session().catch((error) => ({ role: error.status === 401 ? null : "unknown" }));
    if (ended) return;
    if (known.role === null) refused("the login has ended");
    else if (known.role === "unknown") again = setTimeout(retry, RETRY_MS);
    else next = follow({ overview, problem, refused });
  }

  return () => {
    ended = true;
    clearTimeout(again);
    source.close();
    next?.();
  };
}
