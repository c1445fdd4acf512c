import { badge, h, table } from "./dom.js";
import { askJSON } from "./server.js";

// Every prompt: what it wants, and its wording for each family of models.
export function prompts(root) {
  const place = h("div", {}, h("p", { className: "faint" }, "Reading …"));
  root.append(h("h1", {}, "Prompts"), place);
  askJSON("/admin/prompts").then(
    ({ prompts: told }) => place.replaceChildren(...told.map(card)),
    (error) => place.replaceChildren(h("p", { className: "bad-text" }, error.message)),
  );
  return { update() {} };
}

function card(one) {
  const labels = Object.entries(one.labels).map(([label, version]) => badge(`${label} ${version}`, "good"));
  const variables = table([["Variable"], ["Type"], ["Default"], ["If it is too long"], ["Meaning", "wide"]], "It has none.");
  variables.fill(one.variables.map((variable) => [
    h("code", {}, variable.name), variable.enum.length ? variable.enum.join(", ") : variable.type,
    variable.required ? badge("required", "busy") : String(variable.default), variable.cut === "nothing" ? "refused" : `cut: ${variable.cut}`, variable.description || "–",
  ]));
  const wordings = Object.entries(one.variants).map(([name, variant]) => h("details", { className: "entry" },
    h("summary", {}, name === "default" ? "Wording for all others" : `Wording for ${name}`),
    variant.turns.map((turn) => h("div", {}, h("div", { className: "small faint" }, turn.role), h("pre", { tabIndex: 0 }, turn.text))),
    variant.examples.length ? h("p", { className: "small faint" }, `${variant.examples.length} worked example(s) before the last turn`) : null));
  return h("section", { className: "card stack" },
    h("div", { className: "row between" }, h("h2", {}, one.name, " ", badge(one.version), labels), h("a", { href: `#/playground?prompt=${encodeURIComponent(one.name)}` }, "Try it")),
    one.description ? h("p", {}, one.description) : null, variables.element, h("div", {}, wordings));
}
