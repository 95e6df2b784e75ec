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
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#tab-"]');
  if (!link) return;
  event.preventDefault();
  document.getElementById(`${link.hash.slice(5)}-tab-button`)?.click();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest?.('[role="tab"]')) return;
  setTimeout(() => window.dispatchEvent(new Event("resize")), 50);
});
