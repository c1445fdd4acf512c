import { badge, h } from "./dom.js";
import { askJSON } from "./server.js";

// Every path of the server, from its own OpenAPI document.
export function api(root) {
  const place = h("div");
  root.append(
    h("div", { className: "row between" }, h("h1", {}, "API"), h("a", { href: "/openapi.json" }, "openapi.json")), place);
  askJSON("/openapi.json").then(
    (told) => place.replaceChildren(...groups(told)),
    (error) => place.replaceChildren(h("p", { className: "bad-text" }, error.message)),
  );
  return { update() {} };
}

function groups(told) {
  const found = {};
  for (const [path, operations] of Object.entries(told.paths)) {
    if (path.startsWith("/static/")) continue;
    for (const [method, one] of Object.entries(operations)) (found[one.tags[0]] ??= []).push({ path, method, ...one });
  }
  return Object.entries(found).map(([name, operations]) =>
    h("section", { className: "card" }, h("h2", {}, name), operations.map((one) => entry(one, told.components.schemas))));
}

function entry(one, schemas) {
  const reference = one.requestBody?.content["application/json"].schema.$ref;
  const fields = reference ? schemas[reference.split("/").pop()] : null;
  const role = one.security ? badge(one.description ? "admin" : "key", one.description ? "busy" : "") : badge("open", "good");
  const head = h("summary", {}, h("code", {}, `${one.method.toUpperCase()} ${one.path}`), " ", role, h("span", { className: "faint small" }, ` ${one.summary.replaceAll("`", "")}`));
  if (!fields) return h("div", { className: "entry" }, h("div", {}, ...head.childNodes));
  const names = Object.keys(fields.properties).map((name) =>
    h("li", {}, badge(fields.required?.includes(name) ? `${name} *` : name, fields.required?.includes(name) ? "good" : "")));
  return h("details", { className: "entry" }, head, h("ul", { className: "steps" }, names));
}
