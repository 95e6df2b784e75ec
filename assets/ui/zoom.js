// Runs once for the zoom. The dialog comes from the server, already with its photo; which part of it
// is wanted is drawn here, and sent as "left top size", each a share of the photo.
const field = (name) => element.querySelector(`input[name="${name}"]`);
function part() {
  const [size, across, down] = ["part", "across", "down"].map((name) => field(name).value / 100);
  return { left: across * (1 - size), top: down * (1 - size), size };
}
function draw() {
  const { left, top, size } = part();
  const frame = element.querySelector(".zoom-part");
  frame.hidden = size === 1;
  frame.style.cssText =
    `left:${100 * left}%;top:${100 * top}%;width:${100 * size}%;height:${100 * size}%`;
  element.querySelector(".zoom-go").disabled = size === 1;
  for (const name of ["across", "down"]) field(name).disabled = size === 1;
}
element.addEventListener("input", draw);
element.addEventListener("click", (event) => {
  const dialog = element.querySelector("dialog");
  if (event.target === dialog) dialog.close(); // beside it
  const photo = event.target.closest(".zoom-photo");
  if (photo) {
    if (field("part").value === "100") field("part").value = "50";
    const { left, top, width, height } = photo.getBoundingClientRect();
    const room = 1 - part().size;
    const share = (at) => 100 * Math.min(1, Math.max(0, (at - part().size / 2) / room));
    field("across").value = share((event.clientX - left) / width);
    field("down").value = share((event.clientY - top) / height);
    draw();
  }
  if (event.target.closest(".zoom-go")) {
    const { left, top, size } = part();
    props.value = `${left} ${top} ${size}`;
    for (const tile of document.querySelectorAll('.tile[aria-pressed="true"]')) {
      tile.setAttribute("aria-pressed", "false");
    }
    dialog.close();
    trigger("crop");
  }
});
