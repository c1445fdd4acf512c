import { badge, h, seconds, table } from "./dom.js";
import { askJSON } from "./server.js";

const ENDS = { done: "good", failed: "bad" };

export function routes(root) {
  const cards = h("div");
  const switches = table([["Switch"], ["State"], ["How"], ["Steps", "wide"], ["Held", "number"], ["Error", "wide"]], "Nothing has been switched since the start.");
  root.append(h("h1", {}, "Routes"), cards, h("section", { className: "card" }, h("h2", {}, "Switches"), switches.element));
  const shown = {};

  function card(name) {
    const chain = h("div", { className: "row small" });
    const choice = h("select", { ariaLabel: `New target of ${name}` });
    const share = h("input", { type: "number", min: 0, max: 99, value: 0, ariaLabel: "Canary, percent" });
    const press = h("button", { type: "submit" }, "Switch");
    const said = h("p", { className: "small bad-text", role: "status" });
    const form = h("form", { className: "row", onsubmit: (event) => begin(event) },
      h("label", {}, "Switch to", choice), h("label", {}, "Canary first, % for 1 min", share), press);

    async function begin(event) {
      event.preventDefault();
      said.textContent = "";
      press.disabled = true;
      const percent = Number(share.value);
      const canary = percent ? { percent, for_s: 60 } : undefined;
      try {
        await askJSON("/admin/switch", { method: "POST", body: { route: name, target: choice.value, canary } });
      } catch (error) {
        said.textContent = error.message;
      }
      press.disabled = false;
    }
    const element = h("section", { className: "card stack" }, h("div", { className: "row between" }, h("h2", {}, name), chain), form, said);
    return { element, chain, choice };
  }

  function fill(one, route, targets) {
    const tiers = route.targets.map((tier, place) => [place ? h("span", { className: "faint" }, "else") : null, badge(tier.join(" | "), place ? "" : "good")]);
    const notes = [route.held ? badge("requests are held", "busy") : null, route.canary ? badge(`canary ${route.canary} %`, "busy") : null];
    one.chain.replaceChildren(...[...tiers, notes].flat().filter(Boolean));
    const wanted = targets.filter((target) => !route.targets[0].includes(target));
    if ([...one.choice.options].map((option) => option.value).join() !== wanted.join()) {
      const kept = one.choice.value;
      one.choice.replaceChildren(...wanted.map((target) => h("option", { value: target }, target)));
      if (wanted.includes(kept)) one.choice.value = kept;
      one.choice.form.hidden = !wanted.length;
    }
  }

  return {
    update({ state }) {
      const targets = [...new Set(state.replicas.map((one) => one.target))];
      for (const [name, route] of Object.entries(state.routes)) {
        if (!shown[name]) cards.append((shown[name] = card(name)).element);
        fill(shown[name], route, targets);
      }
      for (const name of Object.keys(shown)) {
        if (!(name in state.routes)) {
          shown[name].element.remove();
          delete shown[name];
        }
      }
      switches.fill(state.switches.map(step));
    },
  };
}

function step(one) {
  const reached = Object.entries(one.reached_s).map(([name, at]) => h("li", {}, badge(`${name} ${seconds(at)}`, ENDS[name] || "")));
  return [
    one.what, badge(one.state, ENDS[one.state] || "busy"), one.mode,
    h("div", {}, one.over ? null : h("progress", { ariaLabel: "Switch under way" }), h("ul", { className: "steps" }, reached)),
    one.held_s ? seconds(one.held_s) : "–", one.error || "–",
  ];
}
