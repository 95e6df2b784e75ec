// Runs once for each part of the Explore tab: copies code, sorts the table by a column, and hands on
// what a row's button is about: its method as the event "pick" or "tune", its pane as "open".
const text = (cell) => cell.dataset.value ?? cell.innerText.trim();
function sort(button) {
  const head = button.closest("th");
  const column = [...head.parentElement.children].indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  const order = (one, two) => {
    const [a, b] = [one, two].map((row) => text(row.children[column]));
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last
    const by = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return down ? -by : by;
  };
  body.append(...[...body.rows].sort(order));
}
element.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches(".copy")) {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").innerText);
    button.innerText = "Copied";
    setTimeout(() => { button.innerText = "Copy"; }, 1500);
  } else if (button.matches("th button")) {
    sort(button);
  } else {
    for (const [name, event] of [["method", "pick"], ["tune", "tune"], ["pane", "open"]]) {
      if (!button.dataset[name]) continue;
      props.value = button.dataset[name];
      trigger(event);
    }
  }
});
