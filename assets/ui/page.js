// For all tabs. A link to a record opens it, on the tab where the link is; and figures that grew up
// or were resized out of sight take their place's width once their tab is opened.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#record-"]');
  if (!link) return;
  const name = CSS.escape(decodeURIComponent(link.hash.slice(1)));
  const near = link.closest('[role="tabpanel"]') ?? document;
  const record = near.querySelector(`#${name}`) ?? document.querySelector(`#${name}`);
  if (!record) return;
  event.preventDefault();
  record.open = true;
  record.scrollIntoView({ block: "start" });
  record.querySelector("summary").focus({ preventScroll: true });
});

// The tab stands in the address, so that a reload or a link opens it again.
const TAB = /^(.+)-tab-button$/;
// On narrow screens some tabs are in a menu, where they have a title and no id.
function tabButton(name) {
  const menu = [...document.querySelectorAll(".overflow-dropdown button")];
  return document.getElementById(`${name}-tab-button`)
    ?? menu.find((button) => button.textContent.trim().toLowerCase() === name);
}
window.qvlaTab = (name) => tabButton(name)?.click();
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#tab-"]');
  if (!link) return;
  event.preventDefault();
  tabButton(link.hash.slice(5))?.click();
});
document.addEventListener("click", (event) => {
  const tab = event.target.closest?.('[role="tab"]');
  if (!tab) return;
  setTimeout(() => window.dispatchEvent(new Event("resize")), 50);
  const name = TAB.exec(tab.id)?.[1];
  const { pathname, search } = location; // not "#…" alone, which would be beside the page's base
  if (name) history.replaceState(history.state, "", `${pathname}${search}#${name}`);
});
let wantedTab = location.hash.slice(1);
function openTab() {
  if (!wantedTab) return;
  const tab = tabButton(wantedTab);
  if (!tab) return;
  wantedTab = "";
  tab.click();
}
window.addEventListener("hashchange", () => {
  wantedTab = location.hash.slice(1);
  openTab();
});

// What Gradio leaves unsaid to who cannot see the page: whether an accordion is open, and what a
// figure shows (`figures.in_words`); and to who keeps passwords, that a field is for one.
function describe() {
  for (const button of document.querySelectorAll("button.label-wrap")) {
    button.setAttribute("aria-expanded", String(button.classList.contains("open")));
    for (const icon of button.querySelectorAll(".icon")) icon.setAttribute("aria-hidden", "true");
  }
  for (const field of document.querySelectorAll('input[type="password"][autocomplete=""]')) {
    field.autocomplete = "current-password";
  }
  for (const button of document.querySelectorAll(ASKING)) {
    button.setAttribute("aria-keyshortcuts", "Control+Enter Meta+Enter");
    button.title = "Ctrl+Enter";
  }
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const words = plot.layout?.meta?.words;
    if (!words) continue;
    const title = plot.closest(".exhibit")?.querySelector("h3")?.textContent;
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", title ? `${title}: ${words}` : words);
  }
}
let due = false;
new MutationObserver(() => {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    openTab();
    describe();
  });
}).observe(document, {
  subtree: true, childList: true, attributes: true, attributeFilter: ["class"],
});

// Buttons that copy: a text, or a link to this page with a query of its own. Where a page may not
// write to the clipboard (any that is not on https or this machine), a field that is selected may.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy], [data-copy-link]");
  if (!button) return;
  const { copy: text, copyLink: query } = button.dataset;
  await copy(text ?? `${location.origin}${location.pathname}${query}#compare`);
  button.focus();
  const label = button.dataset.label ??= button.innerHTML;
  button.textContent = "Copied";
  setTimeout(() => { button.innerHTML = label; }, 1500);
});

// Ctrl+Enter asks, wherever on the tab the keyboard is.
const ASKING = "#compare, #ask";
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const button = [...document.querySelectorAll(ASKING)].find((one) => one.checkVisibility());
  if (!button || event.target.closest?.("dialog")) return;
  event.preventDefault();
  event.stopPropagation();
  button.click();
}, true);

// Whether the app still answers. The page says so by an attribute and the style sheet, so that no
// text is changed here that Gradio keeps.
const ASK_EVERY = 5000;
let app = null;
async function ask() {
  if (document.hidden || !window.gradio_config) return;
  const { root, api_prefix: prefix } = window.gradio_config;
  let server = "";
  try {
    const answer = await fetch(`${root}${prefix}/app_id`, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const { app_id: id } = await answer.json();
    app ??= id;
    if (id !== app) server = "new";
  } catch {
    server = "gone";
  }
  document.documentElement.dataset.server = server;
}
setInterval(ask, ASK_EVERY);
document.addEventListener("visibilitychange", ask);
