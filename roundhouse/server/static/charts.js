// Lines over the last minutes, drawn by uPlot in the colours of the page.

const KEPT = 300;
const WHOLE = Array.from({ length: 9 }, (_, power) => [1, 2, 5].map((one) => one * 10 ** power)).flat();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const AXIS = () => ({ stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } });

// What was measured since the page was opened; charts that are opened later still have it.
export class History {
  constructor() {
    this.times = [];
    this.series = {};
  }

  add(at, values) {
    this.times.push(at);
    for (const [name, value] of Object.entries(values)) {
      this.series[name] ??= Array(this.times.length - 1).fill(null);
      this.series[name].push(value ?? null);
    }
    if (this.times.length > KEPT) {
      this.times.shift();
      for (const values of Object.values(this.series)) values.shift();
    }
  }
}

export class Chart {
  // `lines`: [name in the history, label]; `unit` formats a value of the axis, which reaches `least` at least.
  constructor(place, history, lines, unit, least) {
    Object.assign(this, { place, history, lines, unit, least });
    this.draw();
    this.resized = new ResizeObserver(() => this.plot.setSize(this.size()));
    this.resized.observe(place);
  }

  size() {
    return { width: Math.max(120, this.place.clientWidth), height: 190 };
  }

  draw() {
    this.plot?.destroy();
    const axis = AXIS();
    const series = this.lines.map(([, label], place) => ({ label, stroke: colour(`--s${place + 1}`), width: 2, points: { show: false } }));
    this.plot = new uPlot({
      ...this.size(),
      series: [{}, ...series],
      axes: [
        { ...axis, space: 70, size: 30, values: (_, times) => times.map((time) => new Date(time * 1000).toLocaleTimeString("en-GB")) },
        { ...axis, size: 64, incrs: this.least < 1 ? undefined : WHOLE, values: (_, values) => values.map((value) => this.unit(value)) },
      ],
      scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, this.least)] } },
      legend: { show: false },
      cursor: { show: false },
    }, this.data(), this.place);
  }

  data() {
    return [this.history.times, ...this.lines.map(([name]) => this.history.series[name] ?? [])];
  }

  update() {
    this.plot.setData(this.data());
  }

  remove() {
    this.resized.disconnect();
    this.plot.destroy();
  }
}

// Estimates with their intervals over time: a line in a band for each name, and the line of no difference.
export class Course {
  constructor(place, names, unit) {
    Object.assign(this, { place, names, unit, course: [] });
    this.resized = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.resized.observe(place);
  }

  size() {
    return { width: Math.max(120, this.place.clientWidth), height: 190 };
  }

  update(course) {
    this.course = course;
    this.draw();
  }

  draw() {
    this.plot?.destroy();
    const shade = (at) => colour(`--s${(at % 3) + 1}`);
    const line = (at, fields) => ({ stroke: shade(at), points: { show: this.course.length < 2 }, ...fields });
    const series = this.names.flatMap((_, at) => [line(at, { width: 2 }), line(at, { stroke: "transparent" }), line(at, { stroke: "transparent" })]);
    const span = this.course.length ? this.course.at(-1).at - this.course[0].at : 0;
    const clock = { hour: "2-digit", minute: "2-digit" }, day = { day: "numeric", month: "short" };
    const shown = span > 20 * 86_400 ? day : span > 86_400 ? { ...day, ...clock } : span < 600 ? { ...clock, second: "2-digit" } : clock;
    const time = (at) => new Date(at * 1000).toLocaleString("en-GB", shown).replace(",", "");
    this.plot = new uPlot({
      ...this.size(),
      padding: [null, 28, null, null],
      series: [{}, { stroke: colour("--faint"), dash: [4, 4], width: 1, points: { show: false } }, ...series],
      bands: this.names.map((_, at) => ({ series: [3 * at + 4, 3 * at + 3], fill: `${shade(at)}33` })),
      axes: [{ ...AXIS(), space: span > 86_400 ? 110 : 70, size: 30, values: (_, times) => times.map(time) }, { ...AXIS(), size: 72, values: (_, values) => values.map(this.unit) }],
      legend: { show: false },
      cursor: { show: false },
    }, this.data(), this.place);
  }

  data() {
    const of = (name, field) => this.course.map((point) => point.intervals[name]?.[field] ?? null);
    return [this.course.map((point) => point.at), this.course.map(() => 0), ...this.names.flatMap((name) => [of(name, "estimate"), of(name, "low"), of(name, "high")])];
  }

  remove() {
    this.resized.disconnect();
    this.plot?.destroy();
  }
}
