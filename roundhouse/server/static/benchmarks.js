import { Course } from "./charts.js";
import { h, number, seconds, table } from "./dom.js";
import { ask, askJSON, hasKey, told } from "./server.js";

const METRICS = [["ttft_sched", "First token, from the scheduled time"], ["e2e_sched", "Whole answer, from the scheduled time"], ["tpot", "Time per output token"]];
const share = (value) => (value === null || value === undefined ? "–" : `${(value * 100).toFixed(1)} %`);
const subject = (run) => Object.values(run.subject).filter(Boolean).join(" ") || run.label;
const lineOf = (run, point) => `${subject(run)}, ${point.load}`;

// The last runs of `roundhouse bench run` on this machine, and how their numbers went over time.
export function benchmarks(root) {
  const place = h("div", { className: "charts" });
  const list = table([["Run", "name"], ["What was asked", "name"], ["Load", "name"], ["Answered/s", "number"], ["Tokens/s", "number"], ["First token, P50", "number"], ["Whole answer, P95", "number"], ["Failed", "number"], ["Right", "number"], [""]], "No benchmark has been kept yet: roundhouse bench run");
  const said = h("p", { className: "small", role: "status" });
  root.append(h("h1", {}, "Benchmarks"), h("section", { className: "card" }, list.element, said), place);
  let charts = [];
  let gone = false;

  async function report(id) {
    said.textContent = "";
    const path = `/admin/benchmarks/${encodeURIComponent(id)}`;
    if (!hasKey()) {
      open(path, "_blank", "noopener");
      return;
    }
    const answer = await ask(path);  // a link cannot carry the key, so the file is saved
    if (!answer.ok) {
      said.textContent = await told(answer);
      return;
    }
    const url = URL.createObjectURL(await answer.blob());
    h("a", { href: url, download: `benchmark-${id}.html` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  function row(one) {
    const button = h("button", { className: "plain", type: "button", onclick: () => report(one.id), ariaLabel: `Report of ${one.run?.label ?? one.id}` }, "report");
    if (!one.run) return [[one.id, "–", h("span", { className: "bad-text" }, one.reason), "–", "–", "–", "–", "–", "–", button]];
    return one.run.points.map((point, at) => [
      at ? "" : h("span", {}, one.run.label, h("div", { className: "faint small" }, new Date(one.run.began).toLocaleString("en-GB"))),
      at ? "" : subject(one.run), point.load,
      number(point.summary.requests_per_s), number(point.summary.output_tokens_per_s),
      seconds(point.summary.metrics.ttft_sched?.p50.value), seconds(point.summary.metrics.e2e_sched?.p95.value),
      share(point.summary.error_rate), share(point.quality?.exact_match),
      at ? "" : button,
    ]);
  }

  function show(told) {
    list.fill(told.flatMap(row));
    charts.forEach((one) => one.remove());
    charts = [];
    place.replaceChildren();
    const runs = told.map((one) => one.run).filter(Boolean).reverse();
    const times = new Map();
    for (const run of runs) for (const point of run.points) {
      const name = lineOf(run, point);
      times.set(name, (times.get(name) ?? 0) + 1);
    }
    const names = [...times.entries()].filter(([, count]) => count > 1).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([name]) => name);
    if (!names.length) return;
    for (const [metric, title] of METRICS) {
      const course = runs.flatMap((run) => {
        const intervals = {};
        for (const point of run.points) {
          const found = point.summary.metrics[metric]?.p50;
          if (names.includes(lineOf(run, point)) && found?.value !== null && found !== undefined) intervals[lineOf(run, point)] = { estimate: found.value, low: found.low ?? found.value, high: found.high ?? found.value };
        }
        return Object.keys(intervals).length ? [{ at: Date.parse(run.began) / 1000, intervals }] : [];
      });
      if (course.length < 2) continue;
      const chart = h("div", { className: "chart" });
      place.append(h("section", { className: "card" }, h("h2", {}, `${title}, median`), chart,
        h("div", { className: "legend" }, names.map((name, at) => h("span", {}, h("i", { className: `c${(at % 3) + 1}` }), name)))));
      charts.push(new Course(chart, names, seconds));
      charts.at(-1).update(course);
    }
  }

  askJSON("/admin/benchmarks").then(({ benchmarks: told }) => gone || show(told), (error) => { said.textContent = error.message; });
  return { update() {}, recolour: () => charts.forEach((one) => one.draw()), remove: () => { gone = true; charts.forEach((one) => one.remove()); } };
}
