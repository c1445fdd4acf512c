// Shows two answers, sends a verdict, shows the next two once it is stored. What a model wrote is text, never markup.

const $ = (id) => document.getElementById(id);
const KEYS = { 1: "left", 2: "right", t: "tie", b: "both bad", s: "skip", u: "undo", n: "note" };

const SHORT = 600; // characters of a context that is shown without being asked for
const FOLD = 50_000; // characters that are laid out without being asked for; a million take seconds

let view = null; // what the server said last
let waiting = false; // a request is under way: no second verdict
let unsent = null; // the request that failed, for another try
let shownAt = 0; // when the task came into sight; time in the background does not count
let seenMs = 0;
let aboutOpen = null; // once the rater has opened or closed the context, so it stays

const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
};

async function ask(path, body) {
  const answer = await fetch(path, body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const told = (answer.headers.get("content-type") ?? "").includes("json") ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) throw new Error(told.error ?? `The server answered ${answer.status}.`);
  return told;
}

// One request at a time; the page moves on only when the server has stored it.
async function send(path, body) {
  if (waiting) return;
  busy(true);
  try {
    show(await ask(path, body));
    unsent = null;
  } catch (error) {
    unsent = [path, body];
    const gone = error instanceof TypeError;
    $("why").textContent = gone
      ? "The server does not answer; this verdict is not stored yet. What came before is. Start “roundhouse rate open” again and use its new address, or try again."
      : `Not stored: ${error.message}`;
    $("failed").hidden = false;
  } finally {
    busy(false);
  }
}

function busy(now) {
  waiting = now;
  document.body.setAttribute("aria-busy", now);
  for (const button of document.querySelectorAll("[data-verdict]")) button.setAttribute("aria-disabled", now);
}

function show(next) {
  view = next;
  const { task } = next;
  const judged = next.done + next.skipped;
  $("sit").hidden = true;
  $("failed").hidden = true;
  $("said").hidden = !next.said;
  $("said").textContent = next.said;
  $("enough").hidden = !next.enough || !task;
  $("task").hidden = $("keys").hidden = !task;
  $("over").hidden = Boolean(task);
  $("bar").hidden = false;
  $("bar").max = Math.max(1, next.total);
  $("bar").value = judged;
  $("far").textContent = `${judged} of ${next.total}`;
  $("who").textContent = next.rater;
  $("who").hidden = false;
  document.title = `${judged} of ${next.total} · Which answer is better?`;
  if (task) showTask(task);
  else showEnd(next);
  scrollTo(0, 0);
}

function showTask(task) {
  $("messages").replaceChildren(...task.messages.map(([role, text]) =>
    element("div", "turn", ...(task.messages.length > 1 ? [element("span", "role", role)] : []), written(text))));
  $("about").hidden = !task.context;
  $("about").open = aboutOpen ?? task.context.length <= SHORT;
  $("context").replaceChildren(written(task.context.trim()));
  answer($("left"), task.left);
  answer($("right"), task.right);
  $("note").value = task.note;
  note(Boolean(task.note));
  $("asked").textContent = `Question ${view.done + view.skipped + 1}`;
  $("asked").focus({ preventScroll: true });
  seenMs = 0;
  shownAt = performance.now();
}

function answer(place, text) {
  place.replaceChildren(written(text.trim() ? text : "(an empty answer)"));
  place.classList.toggle("empty", !text.trim());
}

// The text, of which the far end of a very long one waits behind a button.
function written(text) {
  if (text.length <= FOLD) return text;
  const more = element("button", "plain more", `Show all ${text.length.toLocaleString("en")} characters`);
  const shown = element("span", "", text.slice(0, FOLD), more);
  more.type = "button";
  more.addEventListener("click", () => shown.replaceWith(text));
  return shown;
}

function showEnd(next) {
  $("skips").hidden = !next.skipped;
  $("again").textContent = `Look again at what you skipped (${next.skipped})`;
  $("over-title").focus({ preventScroll: true });
}

function note(open) {
  $("noting").hidden = !open;
  document.querySelector('[data-verdict="note"]').setAttribute("aria-expanded", open);
}

function act(verdict) {
  if (waiting || !view) return;
  if (verdict === "undo") send("/api/undo", { rater: view.rater });
  else if (!view.task) return;
  else if (verdict === "note") {
    note($("noting").hidden || Boolean($("note").value));
    if (!$("noting").hidden) $("note").focus();
  } else {
    const seconds = (seenMs + (document.hidden ? 0 : performance.now() - shownAt)) / 1000;
    send("/api/judgement", { rater: view.rater, comparison: view.task.id, verdict, note: $("note").value, seconds });
  }
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target === $("note")) return $("asked").focus({ preventScroll: true });
  const writes = event.target.closest("input:not([type=checkbox]), textarea");
  if (writes || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !$("shortcuts").checked) return;
  const verdict = KEYS[event.key.toLowerCase()];
  if (verdict && view) {
    event.preventDefault();
    act(verdict);
  }
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-verdict]");
  if (button) act(button.dataset.verdict);
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) seenMs += performance.now() - shownAt;
  else shownAt = performance.now();
});

document.querySelector("#about summary").addEventListener("click", () => {
  aboutOpen = !$("about").open;
});

$("again").addEventListener("click", () => send("/api/again", { rater: view.rater }));
$("retry").addEventListener("click", () => unsent && send(...unsent));
$("shortcuts").addEventListener("change", () => {
  document.body.classList.toggle("keyless", !$("shortcuts").checked);
});
$("sit").addEventListener("submit", (event) => {
  event.preventDefault();
  sit($("name").value);
});

function sit(rater) {
  sessionStorage.setItem("rater", rater);
  return send("/api/task", { rater });
}

async function begin() {
  const told = await ask("/api/hello");
  const rater = sessionStorage.getItem("rater") ?? told.rater;
  if (rater) return sit(rater);
  return choose(told);
}

function choose(told) {
  view = null;
  $("task").hidden = $("keys").hidden = $("over").hidden = $("enough").hidden = $("said").hidden = true;
  $("names").replaceChildren(...told.raters.map((name) => Object.assign(document.createElement("option"), { value: name })));
  $("sit").hidden = false;
  $("name").focus();
}

$("who").addEventListener("click", async () => choose(await ask("/api/hello")));

begin().catch((error) => {
  $("why").textContent = error.message;
  $("retry").hidden = true;
  $("failed").hidden = false;
});
