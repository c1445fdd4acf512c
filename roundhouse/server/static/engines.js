import { TRIED_NEXT, badge, bytes, h, number, table } from "./dom.js";
import { askJSON } from "./server.js";

const STATES = { ready: "good", starting: "busy", draining: "busy", stopping: "busy", failed: "bad" };
const BREAKERS = { closed: "good", half_open: "busy", open: "bad" };

export function engines(root) {
  const list = table([["Engine", "wide"], ["State"], ["Slots in use"], ["Breaker"], ["Tokens/s", "number"], ["Memory", "number"], ["Why it is left alone", "wide"], [""]], "There are no engines.");
  const said = h("p", { className: "small", role: "status" });
  root.append(h("h1", {}, "Engines"), h("section", { className: "card" }, list.element, said));

  async function order(what, target) {
    said.textContent = `${target}: ${what} …`;
    try {
      await askJSON(`/admin/${what}`, { method: "POST", body: { target } });
      said.textContent = `${target}: ${what} is done`;
    } catch (error) {
      said.textContent = `${target}: ${error.message}`;
    }
  }

  const row = (one, memory) => {
    const held = memory.models[one.replica];
    const taken = Object.values(held?.taken_bytes ?? {}).reduce((sum, part) => sum + part, 0);
    const promised = Object.values(held?.promised_bytes ?? {}).reduce((sum, part) => sum + part, 0);
    const managed = one.engine !== "attached";
    const what = one.engine === "ready" ? "unload" : "load";
    return [
      h("div", { className: "named" }, h("strong", {}, one.replica), one.pin ? [" ", badge("pinned")] : null, h("div", { className: "faint small" }, one.model)),
      h("span", {}, badge(one.engine, STATES[one.engine] || ""), one.engine === "starting" && one.loaded < 1 ? h("progress", { value: one.loaded, ariaLabel: `Load of ${one.replica}` }) : null),
      h("div", { className: "slots" }, h("span", { className: "small" }, `${one.busy} of ${one.slots}`), h("meter", { min: 0, max: one.slots, value: one.busy, ariaLabel: "Slots in use" })),
      badge(one.breaker.replace("_", "-"), BREAKERS[one.breaker] || ""),
      one.tokens_per_s ? number(one.tokens_per_s) : "–",
      h("span", { title: promised ? `planned: ${bytes(promised)}` : "" }, bytes(taken || promised)),
      [one.objection || (one.breaker === "open" && TRIED_NEXT), ...(one.notes ?? [])].filter(Boolean).join("; ") || "–",
      managed ? h("button", { className: "plain", type: "button", onclick: () => order(what, one.target), ariaLabel: `${what} ${one.target}` }, what) : "",
    ];
  };
  let drawn = "";
  return {
    update(shot) {
      const now = JSON.stringify([shot.state.replicas, shot.state.memory.models]);
      if (now === drawn) return;  // a button that is replaced under the finger cannot be pressed
      drawn = now;
      const focused = document.activeElement?.ariaLabel;
      list.fill(shot.state.replicas.map((one) => row(one, shot.state.memory)));
      if (focused) [...root.querySelectorAll("button")].find((one) => one.ariaLabel === focused)?.focus();
    },
  };
}
