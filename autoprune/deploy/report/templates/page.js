"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/* An element with properties and children; text is never read as markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") element.style.cssText = value;
    else if (name.startsWith("data-") || name.startsWith("aria-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  for (const button of all("[data-theme-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeChoice === name));
  }
  // Where the page may keep nothing (a sandboxed frame), the choice lasts as long as the page.
  try { localStorage.setItem("autoprune-theme", name); } catch { /* as said */ }
}
for (const button of all("[data-theme-choice]")) {
  button.addEventListener("click", () => setTheme(button.dataset.themeChoice));
}
try {
  const kept = localStorage.getItem("autoprune-theme");
  if (["light", "dark"].includes(kept)) setTheme(kept);
} catch { /* as said */ }

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  let done = true;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    const area = make("textarea", { value: button.dataset.copy, style: "position:fixed;opacity:0" });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = done ? "Copied" : "Select it";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
