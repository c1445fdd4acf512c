import { badge, h, seconds, table } from "./dom.js";
import { askJSON } from "./server.js";

export function decisions(root) {
  const list = table([["Request"], ["Route"], ["Answered by"], ["Outcome"], ["Attempts", "number"], ["Took", "number"], ["Queue", "number"], ["Load", "number"]], "No request yet.");
  const why = h("section", { className: "card", hidden: true, tabIndex: -1 });
  const only = h("input", { type: "checkbox", onchange: () => choose() });
  const still = h("input", { type: "checkbox" });
  const said = h("p", { className: "small bad-text", role: "status" });
  root.append(
    h("div", { className: "row between" }, h("h1", {}, "Decisions"), h("div", { className: "row" },
      h("label", { className: "tick" }, only, "Only those with trouble"), h("label", { className: "tick" }, still, "Hold the list still"))),
    why, h("section", { className: "card" }, list.element, said));

  async function explain(id) {
    why.hidden = false;
    try {
      why.replaceChildren(...explained(await askJSON(`/admin/decisions/${id}`)));
    } catch (error) {
      why.replaceChildren(h("p", {}, error.message));
    }
    why.focus();
  }

  let drawn = "";
  let asking = false;
  let last = [];

  // Those with trouble may be older than the newest that the figures bring, so the server is asked for them.
  async function choose() {
    if (!only.checked) {
      draw(last);
      return;
    }
    if (asking) return;
    asking = true;
    try {
      const { decisions: found } = await askJSON("/admin/decisions?troubled=true");
      said.textContent = "";
      if (only.checked) draw(found);
    } catch (error) {
      said.textContent = error.message;
    }
    asking = false;
  }

  function draw(rows) {
    const now = JSON.stringify(rows);
    if (now === drawn) return;
    drawn = now;
    const focused = document.activeElement?.textContent;
    list.fill(rows.map((one) => [
      h("button", { className: "plain", type: "button", onclick: () => explain(one.id), title: "Why did it go there?" }, one.id.slice(0, 8)),
      one.route, one.replica || "–",
      badge(one.outcome.replaceAll("_", " "), one.outcome === "ok" ? "good" : one.outcome === "running" ? "busy" : "bad"),
      String(one.attempts), seconds(one.seconds), one.queue_s ? seconds(one.queue_s) : "–", one.load_s > 0.001 ? seconds(one.load_s) : "–",
    ]));
    [...root.querySelectorAll("td button")].find((one) => one.textContent === focused)?.focus();
  }

  return {
    update({ recent }) {
      last = recent;
      if (still.checked) return;
      if (only.checked) choose();
      else draw(recent);
    },
  };
}

function explained(report) {
  const choices = table([["After", "number"], ["Decision"], ["Who was passed over, and why", "wide"]], "");
  choices.fill(report.choices.map((one) => [
    seconds(one.at_s), one.outcome, one.objections.length ? one.objections.map(({ replica, why }) => h("div", {}, `${replica}: ${why}`)) : "–",
  ]));
  const attempts = table([["Target"], ["Outcome"], ["Took", "number"], ["Reason", "wide"]], "None yet.");
  attempts.fill(report.attempts.map((one) => [one.target, badge(one.outcome, one.outcome === "ok" ? "good" : "bad"), seconds(one.seconds), one.reason || "–"]));
  const said = report.warnings.map((warning) => h("p", { className: "small" }, `⚠ ${warning}`));
  return [h("h2", {}, `Request ${report.request_id}`), h("h3", { className: "small faint" }, "Decisions"), choices.element, h("h3", { className: "small faint" }, "Attempts"), attempts.element, ...said];
}
