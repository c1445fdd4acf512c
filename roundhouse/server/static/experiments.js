import { Course } from "./charts.js";
import { badge, ago, h, number, table } from "./dom.js";
import { askJSON } from "./server.js";

const EVERY_MS = 10_000;
const STATES = { running: "good", promoted: "good", stopped: "", "not started": "" };
const unitOf = (metric) => (metric.endsWith("_s") ? " s" : metric.endsWith("_tokens") ? " tokens" : "");
const measure = (value) => (Math.abs(value) < 1 ? value.toFixed(3) : Math.abs(value) < 100 ? value.toFixed(2) : number(value));
const signed = (value) => `${value < 0 ? "−" : "+"}${measure(Math.abs(value))}`;
const interval = (one, unit) => `${signed(one.estimate)}${unit} (${signed(one.low)} to ${signed(one.high)})`;

// How variants compare: what may be said now, and how the intervals became what they are.
export function experiments(root) {
  const place = h("div", {}, h("p", { className: "faint" }, "Reading …"));
  root.append(h("h1", {}, "Experiments"), place);
  const heard = h("p", { className: "small", role: "status" });
  root.append(heard);
  const cards = {};
  let gone = false;

  async function order(what, body, question) {
    if (!confirm(question)) return;
    heard.textContent = "";
    try {
      await askJSON(`/admin/experiments/${what}`, { method: "POST", body });
    } catch (error) {
      heard.textContent = error.message;
    }
    await read();
  }

  async function read() {
    try {
      const { experiments: told } = await askJSON("/admin/experiments");
      const courses = await Promise.all(told.map((one) => (one.started ? askJSON(`/admin/experiments/${encodeURIComponent(one.name)}`) : { course: [] })));
      if (!gone) show(told, courses);
    } catch (error) {
      place.replaceChildren(h("p", { className: "bad-text", role: "status" }, error.message));
    }
  }

  function show(told, courses) {
    for (const name of Object.keys(cards)) {
      if (!told.some((one) => one.name === name)) {
        cards[name].remove();
        delete cards[name];
      }
    }
    told.forEach((one, at) => (cards[one.name] ??= card(one, order)).update(one, courses[at].course));
    const elements = told.map((one) => cards[one.name].element);
    if (elements.length !== place.children.length || elements.some((one, at) => place.children[at] !== one)) place.replaceChildren(...elements);
    if (!told.length) place.replaceChildren(h("p", { className: "card faint" }, "The configuration has no experiments: see the section `experiments`."));
  }

  read();
  const timer = setInterval(read, EVERY_MS);
  const all = (what) => Object.values(cards).forEach((one) => one[what]());
  return { update() {}, recolour: () => all("recolour"), remove: () => { gone = true; clearInterval(timer); all("remove"); } };
}

function card(first, order) {
  const unit = unitOf(first.metric);
  const others = first.arms.filter((arm) => arm !== first.control);
  const state = h("span");
  const said = h("p");
  const arms = table([["Arm"], ["Units", "number"], ["Planned share", "number"], [`${first.metric}${unit && `, ${unit.trim()}`}`, "number"], [`Difference from ${first.control}`, "number"], ["Verdict"], ["Guardrails", "wide"], [""]], "");
  const place = h("div", { className: "chart" });
  const legend = others.map((arm, at) => h("span", {}, h("i", { className: `c${(at % 3) + 1}` }), `${arm} − ${first.control}`));
  const level = `${number((1 - first.alpha / others.length) * 100)} %`;
  const figure = h("section", { hidden: true }, h("h3", { className: "small faint" }, `Difference in ${first.metric}${unit && `,${unit}`}: estimate and ${level} interval, valid at every look`), place, h("div", { className: "legend" }, legend));
  const events = h("ul", { className: "plain small" });
  const name = first.name;
  const start = h("button", { className: "plain", type: "button", ariaLabel: `Start ${name}`, onclick: () => order("start", { experiment: name }, `Start ${name}?`) }, "start");
  const stop = h("button", { className: "plain", type: "button", ariaLabel: `Stop ${name}`, onclick: () => order("stop", { experiment: name, reason: "on the page" }, `Stop ${name}? Everybody gets what was asked for again.`) }, "stop");
  const promote = (arm) => h("button", { className: "plain", type: "button", ariaLabel: `Promote ${arm} of ${name}`, onclick: () => order("stop", { experiment: name, promote: arm, reason: "on the page" }, `Give ${arm} to everybody?`) }, "promote");
  const history = h("details", { className: "small" }, h("summary", {}, "What was done"), events);
  const element = h("section", { className: "card stack" },
    h("div", { className: "row between" }, h("h2", {}, first.name), h("span", { className: "row" }, state, start, stop)),
    h("p", { className: "small faint" }, `${first.concerns} · ${first.metric}, ${first.goal} is better · control: ${first.control}`),
    said, arms.element, figure, history);
  let chart = null;
  let shown = "";

  function update(one, course) {
    state.replaceChildren(badge(one.state, STATES[one.state]), ...(one.started ? [h("span", { className: "faint small" }, ` started ${ago(one.started)}`)] : []));
    start.hidden = one.state === "running";
    stop.hidden = one.state === "stopped" || !one.started;
    if (!one.started) {
      said.textContent = "Not started yet.";
      arms.element.hidden = history.hidden = true;
      return;
    }
    arms.element.hidden = history.hidden = false;
    const unsound = one.sample_ratio.by_intention >= one.sample_ratio.alarm_at;
    said.replaceChildren(badge(one.decision, unsound || one.decision.includes("harm") ? "bad" : one.winner ? "good" : "busy"), ` ${one.said}`);
    const drawn = JSON.stringify([one.arms, one.units, one.comparisons, one.winner, one.state]);
    if (drawn !== shown) arms.fill(one.arms.map((arm) => [...row(one, arm, unit), one.state === "promoted" ? "" : promote(arm)]));
    shown = drawn;  // a button that is replaced under the finger cannot be pressed
    events.replaceChildren(...one.events.map(({ at, said: text }) => h("li", {}, h("span", { className: "faint" }, `${new Date(at * 1000).toLocaleString("en-GB")} `), text)));
    figure.hidden = !course.some((point) => Object.keys(point.intervals).length);
    if (figure.hidden) return;
    chart ??= new Course(place, others, (value) => `${Number(value.toPrecision(3))}${unit}`.replace("-", "−"));
    chart.update(course);
  }
  return { element, update, recolour: () => chart?.draw(), remove: () => chart?.remove() };
}

function row(one, arm, unit) {
  const found = one.comparisons.find((other) => other.arm === arm);
  const difference = found?.by_intention;
  const control = one.comparisons.find((other) => other.by_intention)?.by_intention;
  const mean = found ? difference?.other : control?.control;
  const verdict = !found ? badge("control") : found.better ? badge("better", "good") : found.worse ? badge("worse", "bad") : badge("not told apart", "busy");
  const guards = Object.entries(found?.guardrails ?? {}).map(([metric, guard]) => h("div", {}, `${metric}: ${guard.state}`));
  return [
    h("span", {}, arm, " ", one.winner === arm ? badge("winner", "good") : null),
    number(one.units[arm] ?? 0), `${number((one.weights[arm] ?? 0) * 100)} %`,
    mean === undefined ? "–" : `${measure(mean)}${unit}`,
    difference ? interval(difference.interval, unit) : "–", verdict, guards.length ? h("div", {}, guards) : "–",
  ];
}
