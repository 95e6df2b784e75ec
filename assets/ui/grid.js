// Runs once for a grid of photos: a press on a tile sets the value and fires the event "pick".
// The mark on the pressed tile is the page's alone; photo.js takes it away when another photo comes.
element.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  for (const other of document.querySelectorAll('.tile[aria-pressed="true"]')) {
    other.setAttribute("aria-pressed", "false");
  }
  tile.setAttribute("aria-pressed", "true");
  props.value = tile.dataset.key;
  trigger("pick");
});
