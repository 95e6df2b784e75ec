// Runs once for a grid of photos: a press on a tile sets the value and fires the event "pick".
const mark = () => {
  for (const tile of element.querySelectorAll(".tile")) {
    tile.setAttribute("aria-pressed", String(tile.dataset.key === props.value));
  }
};
element.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  props.value = tile.dataset.key;
  mark();
  trigger("pick");
});
watch("value tiles".split(" "), mark);
