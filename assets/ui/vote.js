// Runs once for the bar below hidden panes: a press on a choice sets the value and fires the event.
element.addEventListener("click", (event) => {
  const choice = event.target.closest("[data-choice]");
  if (!choice) return;
  props.value = choice.dataset.choice;
  trigger("vote");
});
