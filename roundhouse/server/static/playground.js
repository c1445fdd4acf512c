import { promptFields } from "./fields.js";
import { h, number, seconds } from "./dom.js";
import { ask, askJSON, events, told } from "./server.js";

export function playground(root, { names, asked: query }) {
  const options = (extra = []) => [...extra, ...names.map((name) => h("option", { value: name }, name))];
  const first = h("select", {}, options());
  const second = h("select", {}, options([h("option", { value: "" }, "nobody")]));
  const system = h("input", { placeholder: "optional" });
  const heat = h("input", { type: "number", min: 0, max: 2, step: 0.1, placeholder: "default" });
  const most = h("input", { type: "number", min: 1, placeholder: "default" });
  const text = h("textarea", { required: true, placeholder: "Ask something. Ctrl+Enter sends." });
  const read = h("button", { className: "plain", type: "button", hidden: true, onclick: () => show_read() }, "What the model reads");
  const prompt = promptFields(query.get("prompt"), (name) => {
    text.required = !name;
    system.disabled = Boolean(name);  // a prompt has its own
    text.placeholder = name ? "Optional, after the prompt. Ctrl+Enter sends." : "Ask something. Ctrl+Enter sends.";
    read.hidden = !name;
    restart();
  });
  const send = h("button", { type: "submit" }, "Send");
  const stop = h("button", { className: "plain", type: "button", disabled: true, onclick: () => running?.abort() }, "Stop");
  const clear = h("button", { className: "plain", type: "button", onclick: () => restart() }, "New conversation");
  const panes = h("div", { className: "panes" });
  const form = h("form", { className: "card stack", onsubmit: (event) => ask_all(event), onkeydown: (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(send);
  } },
    h("div", { className: "row" }, h("label", {}, "Ask", first), h("label", {}, "Compare with", second), h("label", {}, "Prompt", prompt.choice),
      h("label", {}, "Temperature", heat), h("label", {}, "Most tokens", most), h("label", {}, "System text", system)),
    prompt.fields, h("label", {}, "Message", text), h("div", { className: "row" }, send, stop, clear, read));
  root.append(h("h1", {}, "Playground"), form, panes);
  let turns = {};
  let running = null;
  const models = () => [...new Set([first.value, second.value].filter(Boolean))];

  function restart() {
    running?.abort();
    turns = {};
    panes.replaceChildren();
  }

  async function ask_all(event) {
    event.preventDefault();
    if (send.disabled) return;
    const said = text.value;
    if (!said) restart();  // the prompt alone, asked again
    text.value = "";
    running = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    await Promise.all(models().map((model) => turn(model, said, running.signal)));
    send.disabled = false;
    stop.disabled = true;
    if (said) text.focus();
  }

  async function show_read() {
    if (!form.reportValidity()) return;
    restart();
    await Promise.all(models().map(async (model) => {
      const { log } = pane(model);
      try {
        log.append(...as_read(await askJSON("/admin/prompts/read", { method: "POST", body: { ...prompt.asked(), model } })));
      } catch (error) {
        log.append(h("p", { className: "small bad-text" }, error.message));
      }
    }));
  }

  function pane(model) {
    if (!turns[model]) {
      const log = h("div", { role: "log" });
      panes.append(h("section", { className: "card pane" }, h("h2", {}, model), log));
      turns[model] = { messages: [], log };
    }
    return turns[model];
  }

  async function turn(model, said, signal) {
    const { messages, log } = pane(model);
    const own = prompt.asked();
    if (said) messages.push({ role: "user", content: said });
    const thinking = h("div", { className: "turn thinking", hidden: true });
    const answer = h("div", { className: "turn assistant" });
    const figures = h("div", { className: "small faint" }, "waiting …");
    const question = said || `${own.prompt}(${Object.entries(own.variables).map(([name, value]) => `${name}: ${value}`).join(", ")})`;
    log.append(h("div", { className: "turn user" }, question), thinking, answer, figures);
    const body = { model, stream: true, stream_options: { include_usage: true }, messages: [...(system.value && !own ? [{ role: "system", content: system.value }] : []), ...messages] };
    if (own) body.roundhouse = own;
    if (heat.value) body.temperature = Number(heat.value);
    if (most.value) body.max_tokens = Number(most.value);
    try {
      figures.textContent = await written(body, signal, answer, thinking);
      messages.push({ role: "assistant", content: answer.textContent });
    } catch (error) {
      if (said) messages.pop();
      figures.className = "small bad-text";
      figures.textContent = error.name === "AbortError" ? "stopped" : error.message;
    }
    log.lastElementChild.scrollIntoView({ block: "nearest" });
  }
  text.focus();
  return { update() {}, remove: () => running?.abort() };
}

function as_read(told) {
  const size = told.tokens === null ? "" : ` · ${number(told.tokens)} tokens`;
  const text = told.text ?? told.messages.map((message) => `${message.role}:\n${message.content}`).join("\n\n");
  return [
    h("p", { className: "small faint" }, `${told.target} reads the wording “${told.variant}”${size}`),
    h("pre", { tabIndex: 0 }, text), ...told.notes.map((note) => h("p", { className: "small" }, `⚠ ${note}`)),
  ];
}

// Writes the answer as it comes; resolves to the figures of it.
async function written(body, signal, answer, thinking) {
  const reply = await ask("/v1/chat/completions", { method: "POST", body, signal });
  if (!reply.ok) throw new Error(await told(reply));
  let usage = null;
  let end = null;
  for await (const event of events(reply)) {
    if (event.error) throw new Error(event.error.message);
    usage = event.usage || usage;
    end = event.roundhouse || end;
    const delta = event.choices[0]?.delta ?? {};
    if (delta.reasoning_content) {
      thinking.hidden = false;
      thinking.textContent += delta.reasoning_content;
    }
    if (delta.content) answer.textContent += delta.content;
  }
  if (!end) throw new Error("the answer was cut");
  const times = end.timings ?? {};
  const parts = [end.target, `first token ${seconds(times.first_token_s)}`, `total ${seconds(times.total_s)}`];
  if (usage) parts.push(`${number(usage.completion_tokens)} tokens`);
  if (times.tokens_per_s) parts.push(`${number(times.tokens_per_s)} tokens/s`);
  if (end.attempts.length > 1) parts.push(`${end.attempts.length} attempts`);
  return [parts.join(" · "), ...end.warnings].join(" · ⚠ ");
}
