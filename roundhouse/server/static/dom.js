// Elements and numbers. Text is always text: nothing that comes from a server or a model is read as markup.

export function h(tag, fields = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// Of a breaker whose time is over, and which waits for a request to try.
export const TRIED_NEXT = "the next request tries it again";

export const badge = (text, kind = "") => h("span", { className: `badge ${kind}` }, text);

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms`;
  if (value < 90) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${(value / 3600).toFixed(1)} h` : `${Math.round(value / 86400)} d`;
}

// How long ago a time in seconds since 1970 was.
export const ago = (at) => `${seconds(Math.max(1, Date.now() / 1000 - at))} ago`;

export function bytes(value) {
  if (!value) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  const size = value / 2 ** (10 * power);
  return `${size.toFixed(size < 10 && power ? 1 : 0)} ${units[power]}`;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

// A table whose rows are replaced; the head says what each column is and whether it holds numbers.
export function table(columns, empty) {
  const body = h("tbody");
  const head = columns.map(([name, kind]) => h("th", { className: kind || "", scope: "col" }, name || h("span", { className: "unseen" }, "Actions")));
  const element = h("div", { className: "scroll", tabIndex: 0 }, h("table", {}, h("thead", {}, h("tr", {}, head)), body));
  const fill = (rows) => {
    const filled = rows.map((cells) =>
      h("tr", {}, cells.map((cell, place) => h("td", { className: columns[place][1] || "", "data-label": columns[place][0] }, cell ?? ""))));
    body.replaceChildren(...(filled.length ? filled : [h("tr", {}, h("td", { colSpan: columns.length, className: "faint" }, empty))]));
  };
  fill([]);
  return { element, fill };
}
