import { Chart } from "./charts.js";
import { TRIED_NEXT, bytes, h, number, seconds } from "./dom.js";

const share = (value) => `${(value * 100).toFixed(value && value < 0.1 ? 1 : 0)} %`;

// What is measured, for the history that the charts draw.
export function measured(shot) {
  const { totals, minute, state } = shot;
  return {
    requests: totals.requests_per_s, tokens: totals.output_tokens_per_s, p50: minute.p50_s, p95: minute.p95_s,
    p99: minute.p99_s, active: state.active, waiting: state.waiting,
  };
}

// What an operator should look at, most urgent first: [kind, text, view that tells more].
export function concerns({ state, drifted }) {
  const found = [];
  for (const one of state.replicas) {
    if (one.engine === "failed") found.push(["bad", `${one.replica}: its engine has failed${one.objection ? `, ${one.objection}` : ""}`, "engines"]);
    else if (one.breaker !== "closed") found.push(["bad", `${one.replica}: breaker ${one.breaker.replace("_", "-")}, ${one.objection || TRIED_NEXT}`, "engines"]);
    else if (one.objection) found.push(["busy", `${one.replica}: ${one.objection}`, "engines"]);
  }
  for (const [name, route] of Object.entries(state.routes)) {
    if (route.held) found.push(["busy", `${name}: requests are held, ${route.held}`, "routes"]);
  }
  for (const one of state.switches.filter((one) => !one.over)) found.push(["busy", `${one.what}: ${one.state}`, "routes"]);
  for (const one of drifted) {
    const since = `for ${seconds(Math.max(1, Date.now() / 1000 - one.since))}`;
    found.push(["busy", [one.said, one.done, since].filter(Boolean).join(" · "), "engines"]);
  }
  return found;
}

const TILES = [
  ["Running", (s) => [number(s.state.active), `${number(s.state.waiting)} wait for a slot`]],
  ["Requests", (s) => [number(s.totals.requests_per_s), `${number(s.totals.requests)} since the start`, "/s"]],
  ["Latency, median", (s) => [seconds(s.minute.p50_s), `p95 ${seconds(s.minute.p95_s)} · p99 ${seconds(s.minute.p99_s)}`]],
  ["First token, median", (s) => [seconds(s.first_token.p50_s), `p95 ${seconds(s.first_token.p95_s)}`]],
  ["Tokens written", (s) => [number(s.totals.output_tokens_per_s), `${number(s.totals.output_tokens)} since the start`, "/s"]],
  ["Failed", (s) => [share(s.minute.error_rate), `${number(s.totals.errors)} of ${number(s.totals.requests)} since the start`]],
];

const CHARTS = [
  ["Requests per second", [["requests", "requests/s"]], number, 1],
  ["Tokens per second", [["tokens", "tokens/s"]], number, 1],
  ["Latency of the last minute", [["p50", "median"], ["p95", "95th percentile"], ["p99", "99th percentile"]], seconds, 0.001],
  ["In the house", [["active", "running"], ["waiting", "waiting for a slot"]], number, 1],
];

export function overview(root, { history }) {
  const tiles = TILES.map(([name]) => {
    const value = h("div", { className: "tile-value" });
    const note = h("div", { className: "tile-note" });
    return { value, note, card: h("div", { className: "card" }, h("div", { className: "tile-name" }, name), value, note) };
  });
  const places = CHARTS.map(() => h("div", { className: "chart" }));
  const cards = CHARTS.map(([name, lines], place) => {
    const legend = lines.map(([, label], line) => h("span", {}, h("i", { className: `c${line + 1}` }), label));
    return h("section", { className: "card" }, h("h2", {}, name), places[place], h("div", { className: "legend" }, legend));
  });
  const memory = h("div", { className: "stack" });
  const warnings = h("ul", { className: "plain" });
  const warned = h("section", { className: "card warned", role: "status", hidden: true }, h("h2", {}, "Needs a look"), warnings);
  root.append(
    h("div", { className: "row between" }, h("h1", {}, "Overview"), h("span", { className: "faint small" }, "figures of the last minute")),
    warned, h("div", { className: "tiles" }, tiles.map((tile) => tile.card)),
    h("div", { className: "charts" }, cards),
    h("section", { className: "card" }, h("h2", {}, "Memory"), memory),
  );
  const charts = CHARTS.map(([, lines, unit, least], place) => new Chart(places[place], history, lines, unit, least));
  let warnedOf = "";

  function warn(found) {
    const now = JSON.stringify(found);
    if (now === warnedOf) return;  // read out by screen readers only when it has changed
    warnedOf = now;
    warned.hidden = !found.length;
    warned.classList.toggle("urgent", found.some(([kind]) => kind === "bad"));
    warnings.replaceChildren(...found.map(([kind, text, view]) => h("li", {}, h("a", { href: `#/${view}`, className: `concern ${kind}` }, text))));
  }

  return {
    update(shot) {
      TILES.forEach(([, told], place) => {
        const [value, note, unit] = told(shot);
        tiles[place].value.replaceChildren(value, unit ? h("small", {}, unit) : "");
        tiles[place].note.textContent = note;
      });
      charts.forEach((chart) => chart.update());
      warn(concerns(shot));
      const devices = shot.state.memory.devices.map(device);
      memory.replaceChildren(...(devices.length ? devices : [h("p", { className: "faint" }, "No model of this server has been loaded yet.")]));
    },
    recolour: () => charts.forEach((chart) => chart.draw()),
    remove: () => charts.forEach((chart) => chart.remove()),
  };
}

function device(one) {
  const used = one.total_bytes - one.free_bytes;
  const said = `${bytes(used)} of ${bytes(one.total_bytes)} in use · ${bytes(one.room_bytes)} left for models`;
  const busy = one.utilisation === null ? "" : ` · ${share(one.utilisation)} busy`;
  return h("div", {},
    h("div", { className: "row between small" }, h("strong", {}, one.name), h("span", { className: "faint" }, said + busy)),
    h("meter", { min: 0, max: one.total_bytes, value: used, low: one.total_bytes * 0.8, high: one.total_bytes * 0.92, optimum: 0, title: said, ariaLabel: `Memory of ${one.name}` }));
}
