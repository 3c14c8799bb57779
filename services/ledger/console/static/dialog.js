// A dialog that gives an order: fields, a problem where the person looks, and what was ordered said aloud.

import { h, say } from "./dom.js";
import { publish } from "./server.js";

export const UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
export const TASK_TYPES = ["route", "explanation", "investigation", "budget_optimization"];

const dialog = () => document.getElementById("dialog");
export const close = () => dialog().close();
export const cancel = () => h("button", { type: "button", onclick: close }, "Cancel");

export function open(title, ...body) {
  dialog().replaceChildren(h("h2", { id: "dialog-title" }, title), ...body);
  if (!dialog().open) dialog().showModal();
}

export const field = (label, control, hint) => {
  const name = `d-${control.name}`;
  control.id = name;
  if (hint) control.setAttribute("aria-describedby", `${name}-hint`);
  return h("div.field", {}, h("label", { for: name }, label), control, hint ? h("p.hint", { id: `${name}-hint` }, hint) : null);
};
export const input = (name, attributes = {}) => h("input", { name, autocomplete: "off", spellcheck: "false", ...attributes });
export const reasonField = (hint) => field("Reason", input("reason", { required: true, maxlength: 500 }), hint ?? "It is recorded, and shown to whoever is blocked.");

/** A form that gives an order; a problem is shown where the person looks. */
export function form(onsubmit, fields, ...buttons) {
  const problem = h("p.problem", { role: "alert" });
  return h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      problem.textContent = "";
      const button = event.submitter;
      if (button) button.disabled = true;
      try {
        await onsubmit(Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value !== "")));
      } catch (error) {
        problem.textContent = error.message;
      } finally {
        if (button) button.disabled = false;
      }
    },
  }, fields, problem, h("div.buttons", {}, ...buttons));
}

/** Give the order; pages that show what it changes hear of it. */
export async function give(order, said) {
  await publish(order);
  close();
  say(said);
  document.dispatchEvent(new Event("ordered"));
}

export function confirm(title, what, verb, order, dangerous = false) {
  open(title, h("p", {}, what), form(({ reason }) => give({ ...order, reason }, `${verb}: ordered. Every service has it within milliseconds.`), [reasonField("It is recorded with your key.")], cancel(), h(dangerous ? "button.danger" : "button.primary", { type: "submit" }, verb)));
}

/** Options of a choice. */
export const choice = (name, options, chosen = "", attributes = {}) =>
  h("select", { name, ...attributes }, Object.entries(options).map(([value, text]) => h("option", { value, selected: value === String(chosen) }, text)));

/** Dollars as typed, in cents, exactly: two places to the right, without a float between. */
export function cents(dollars) {
  if (!/^\d*\.?\d*$/.test(dollars)) throw new Error("an amount is a number of dollars, like 12.50");
  const [whole, part = ""] = dollars.split(".");
  const moved = `${whole}${part.padEnd(2, "0").slice(0, 2)}.${part.slice(2) || "0"}`;
  return moved.replace(/^0+(?=\d)/, "").replace(/\.0+$/, "");
}
