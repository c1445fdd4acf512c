// The page: which view is open, the stream of figures that feeds it, light and dark.

import { History } from "./charts.js";
import { api } from "./api.js";
import { benchmarks } from "./benchmarks.js";
import { decisions } from "./decisions.js";
import { h } from "./dom.js";
import { engines } from "./engines.js";
import { experiments } from "./experiments.js";
import { measured, overview } from "./overview.js";
import { playground } from "./playground.js";
import { prompts } from "./prompts.js";
import { routes } from "./routes.js";
import { ask, events, told } from "./server.js";

const VIEWS = { "": ["Overview", overview], engines: ["Engines", engines], routes: ["Routes", routes], decisions: ["Decisions", decisions], experiments: ["Experiments", experiments], benchmarks: ["Benchmarks", benchmarks], prompts: ["Prompts", prompts], playground: ["Playground", playground], api: ["API", api] };
const main = document.getElementById("main");
const link = document.getElementById("link");
const history = new History();
let view = null;
let last = null;

function open() {
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [title, build] = Object.hasOwn(VIEWS, name) ? VIEWS[name] : VIEWS[""];
  view?.remove?.();
  main.replaceChildren();
  document.title = `${title} · Roundhouse`;
  document.getElementById("nav").replaceChildren(...Object.entries(VIEWS).map(([path, [label]]) =>
    h("a", { href: `#/${path}`, "aria-current": label === title ? "page" : null }, label)));
  if (!last) {
    view = null;
    main.append(h("p", { className: "faint" }, "Waiting for the first figures …"));
    return;
  }
  view = build(main, { history, names: Object.keys(last.routes), asked: new URLSearchParams(query) });
  view.update(last);
}

function show(state, text) {
  link.className = `link ${state}`;
  if (link.textContent !== text) link.textContent = text;
}

// A connection may be dead and say nothing: after a sleep of this machine, or behind a network that is gone.
const SILENT_MS = 5000;

async function follow() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
    const given = new AbortController();
    let watch = 0;
    try {
      const answer = await ask("/admin/live", { signal: given.signal });
      if (!answer.ok) throw new Error(await told(answer));
      for await (const shot of events(answer)) {
        clearTimeout(watch);
        watch = setTimeout(() => given.abort(), SILENT_MS);
        wait = 500;
        show("live", "live");
        history.add(shot.at, measured(shot));
        const first = !last;
        last = shot;
        if (first) open();
        else view?.update(shot);
      }
    } catch (error) {
      console.debug(error);
    }
    clearTimeout(watch);
    show("lost", "connection lost, trying again");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function dress() {
  const chosen = localStorage.getItem("roundhouse-theme");
  document.documentElement.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
  view?.recolour?.();
}
document.getElementById("theme").addEventListener("click", () => {
  localStorage.setItem("roundhouse-theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  dress();
});
dark.addEventListener("change", dress);
addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
dress();
open();
follow();
