// Before the first paint, so that a dark page never flashes light. Without a choice it is the system's.
const chosen = localStorage.getItem("roundhouse-theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
document.documentElement.dataset.theme = chosen;
