// What the page asks the server: with the key of this tab, if it has one.

let key = sessionStorage.getItem("roundhouse-key") || "";
let asking = null;

export const hasKey = () => Boolean(key);

export function setKey(value) {
  key = value;
  sessionStorage.setItem("roundhouse-key", value);
}

// Opens the dialog once, however many requests were refused; resolves when a key was given.
function askForKey(refused) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    if (refused) document.getElementById("key-why").textContent = refused;
    document.getElementById("key-form").onsubmit = (event) => {
      const given = document.getElementById("key-input").value.trim();
      if (!/^[\x21-\x7e]+$/.test(given)) { // no header can hold it, and the browser would send nothing at all
        event.preventDefault();
        document.getElementById("key-why").textContent = "This is no key: a key has letters, digits, - and _ alone, and no blanks.";
        return;
      }
      setKey(given);
      asking = null;
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault();
    if (!dialog.open) dialog.showModal();
  });
  return asking;
}

export async function ask(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const headers = { accept: "application/json" };
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) }).catch(unreachable);
    if (answer.status !== 401 && !(answer.status === 403 && path.startsWith("/admin/"))) return answer;
    await askForKey((await told(answer)) + ".");
  }
}

// Browsers have words of their own for it, such as "Failed to fetch".
function unreachable(error) {
  throw error.name === "AbortError" ? error : new Error("the server cannot be reached");
}

export async function told(answer) {
  try {
    const said = await answer.json();
    return said.error?.message || said.error || JSON.stringify(said);
  } catch {
    return `${answer.status} ${answer.statusText}`;
  }
}

export async function askJSON(path, options) {
  const answer = await ask(path, options);
  if (!answer.ok) throw new Error(await told(answer));
  return answer.json();
}

// The data of each server-sent event, as JSON; ends with the stream or at [DONE].
export async function* events(answer) {
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      pending += decoder.decode(value, { stream: true });
      const whole = pending.split("\n\n");
      pending = whole.pop();
      for (const event of whole) {
        const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
