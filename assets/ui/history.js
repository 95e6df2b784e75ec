// Runs once for the history: hands on what is to be done with an entry, by its key.
const acts = ["reopen", "remove", "card"];
const key = (node) => node.closest(".entry-actions")?.dataset.key;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button || !acts.includes(button.dataset.do)) return;
  props.value = { key: key(button) };
  trigger(button.dataset.do);
  if (button.dataset.do === acts[0]) {
    document.getElementById("photo").scrollIntoView({ block: "center" });
  }
});
element.addEventListener("change", (event) => {
  if (!event.target.matches(".entry-note-field")) return;
  props.value = { key: key(event.target), note: event.target.value };
  trigger("note");
});
