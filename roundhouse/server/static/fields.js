import { h } from "./dom.js";
import { askJSON } from "./server.js";

const NUMBERS = { integer: "1", number: "any" };

// The choice of a prompt and a field for each of its variables. `changed` is called when another one is chosen.
export function promptFields(wanted, changed) {
  const choice = h("select", { onchange: () => choose(choice.value) }, h("option", { value: "" }, "none"));
  const fields = h("div", { className: "stack", hidden: true });
  let known = {};
  let inputs = [];

  function choose(name) {
    choice.value = name;
    const variables = known[name]?.variables ?? [];
    inputs = variables.map((variable) => [variable, input(variable)]);
    fields.replaceChildren(...inputs.map(([variable, element]) =>
      h("label", {}, `${variable.name}${variable.required ? "" : " (optional)"}${variable.description ? `: ${variable.description}` : ""}`, element)));
    fields.hidden = !variables.length;
    changed(name);
  }

  askJSON("/admin/prompts").then(({ prompts }) => {
    known = Object.fromEntries(prompts.map((one) => [one.name, one]));
    choice.append(...prompts.map((one) => h("option", { value: one.name }, one.name)));
    if (wanted in known) choose(wanted);
  }).catch((error) => choice.replaceChildren(h("option", { value: "" }, error.message)));

  return {
    choice, fields,
    // What goes under the key `roundhouse` of a request; null = no prompt is chosen.
    asked() {
      if (!choice.value) return null;
      const given = inputs.map(([variable, element]) => [variable.name, value(variable, element)]).filter(([, one]) => one !== undefined);
      return { prompt: choice.value, variables: Object.fromEntries(given) };
    },
  };
}

function input(variable) {
  const shown = variable.required ? "" : `default: ${variable.default}`;
  if (variable.enum.length || variable.type === "boolean") {
    const options = variable.enum.length ? variable.enum : ["true", "false"];
    return h("select", {}, variable.required ? null : h("option", { value: "" }, shown), options.map((one) => h("option", { value: one }, one)));
  }
  const fields = { required: variable.required, placeholder: variable.type === "list" ? "separated by commas" : shown };
  if (variable.type in NUMBERS) return h("input", { type: "number", step: NUMBERS[variable.type], ...fields });
  return variable.required ? h("textarea", fields) : h("input", fields);
}

// undefined = not given, so that the default applies.
function value(variable, element) {
  if (element.value === "" && !variable.required) return undefined;
  if (variable.type in NUMBERS) return Number(element.value);
  if (variable.type === "boolean") return element.value === "true";
  return variable.type === "list" ? element.value.split(",").map((one) => one.trim()) : element.value;
}
