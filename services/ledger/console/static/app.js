// The page: who is logged in, which view is shown, how fresh it is.

import { act } from "./actions.js";
import { redraw } from "./charts.js";
import { Costs } from "./costs.js";
import { h, say } from "./dom.js";
import { LimitsPage } from "./limits.js";
import { Orders } from "./orders.js";
import { Overview } from "./overview.js";
import { OneRequest } from "./request.js";
import { Requests } from "./requests.js";
import { follow, login, logout, session as currentSession } from "./server.js";

const STALE_MS = 10_000;
const main = document.getElementById("main"), bar = document.getElementById("bar");
const PAGES = {
  "/": ["Overview", (_, session) => new Overview(session)],
  "/requests": ["Requests", (query, session) => new Requests(query, session)],
  "/costs": ["Costs", (query, session) => new Costs(query, session)],
  "/limits": ["Limits", (query, session) => new LimitsPage(query, session)],
  "/orders": ["Orders", (query, session) => new Orders(query, session)],
};
let session = null, view = null, stop = null, freshAt = 0, last = null, live = null;

function showLogin(note) {
  stop?.();
  view?.leave();
  stop = view = session = last = null;
  bar.hidden = true;
  const problem = h("p.problem", { role: "alert" }, note ?? "");
  const key = h("input", { id: "key", type: "password", name: "key", required: true, autocomplete: "current-password", spellcheck: "false" });
  main.replaceChildren(h("section.login", {}, h("img", { src: "/console/static/mark.svg", alt: "", width: 40, height: 40 }), h("h1", {}, "Skeldir"),
    h("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        problem.textContent = "";
        try {
          enter(await login(key.value));
          bar.querySelector("a").focus(); // who came by keyboard begins at the top, not somewhere in the middle of the page
        } catch (error) {
          problem.textContent = error.message;
          key.select();
        }
      },
    }, h("input", { type: "text", name: "username", value: "api key", autocomplete: "username", hidden: true, "aria-hidden": "true", tabindex: "-1" }),
    h("div.field", {}, h("label", { for: "key" }, "API key"), key, h("p.hint", {}, "An operator's key may act; an auditor's or a producer's looks.")), problem, h("button.primary", { type: "submit" }, "Log in"))));
  key.focus();
}

function enter(found) {
  session = found;
  const link = (href, text) => h("a", { href }, text);
  live = h("span.live", { role: "status" }, "Connecting");
  bar.replaceChildren(h("a.brand", { href: "#/" }, h("img", { src: "/console/static/mark.svg", alt: "", width: 24, height: 24 }), "Skeldir"),
    h("nav", { "aria-label": "Views" }, link("#/", "Overview"), link("#/requests", "Requests"), link("#/costs", "Costs"), link("#/limits", "Limits")),
    h("div.right", {}, live, h("button.plain", { type: "button", onclick: toggleTheme, "aria-label": "Light or dark" }, "◐"),
      h("button.plain", { type: "button", title: `Key ${session.key_id}`, onclick: async () => { await logout().catch(() => {}); showLogin(); } }, "Log out"),
      session.role === "operator" ? h("button.danger", { type: "button", id: "stop", disabled: !session.may_order, title: session.why_not, onclick: () => act("stop") }, "Stop calls") : h("span.role", {}, session.role)));
  bar.hidden = false;
  stop = follow({
    overview: (data) => { freshAt = Date.now(); last = data; view?.show(data); tick(); },
    problem: (text) => { live.dataset.problem = text; tick(); },
    refused: (text) => showLogin(text),
  });
  route();
}

function tick() {
  if (!live) return;
  const late = Date.now() - freshAt > STALE_MS;
  if (!late) delete live.dataset.problem;
  const text = !freshAt ? "Connecting" : late ? `Not live: ${live.dataset.problem ?? "no news"}` : "Live";
  if (live.textContent !== text) live.textContent = text;
  live.classList.toggle("late", late);
}

function route() {
  if (!session) return;
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  view?.leave();
  const one = path.match(/^\/requests\/(.+)$/);
  const [title, make] = one ? ["Request", () => new OneRequest(one[1])] : PAGES[path] ?? PAGES["/"];
  view = make(new URLSearchParams(query), session);
  main.replaceChildren(view.element);
  document.title = `${title} · Skeldir`;
  for (const link of bar.querySelectorAll("nav a")) {
    const here = link.hash === "#/" ? view instanceof Overview : path.startsWith(link.hash.slice(1));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (last) view.show(last);
  scrollTo(0, 0);
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  redraw();
  say(dark ? "Light" : "Dark");
}

document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", route);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
setInterval(tick, 1000);
currentSession().then((found) => (found.role ? enter(found) : showLogin())).catch((error) => showLogin(error.message));
