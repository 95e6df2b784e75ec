// Runs once for the drop zone. `element` is its root; `props`, `trigger` and `upload` are Gradio's.
// Nodes inside may be replaced when the preview changes, so listeners sit on the root.
const zone = () => element.querySelector(".photo-drop");
const picker = () => element.querySelector('input[type="file"]');
const announce = (text) => {
  zone().classList.toggle("busy", Boolean(text));
  element.querySelector(".photo-busy").textContent = text;
};

async function take(file) {
  if (!file) return;
  for (const tile of document.querySelectorAll('.tile[aria-pressed="true"]')) {
    tile.setAttribute("aria-pressed", "false");
  }
  if (file.size > props.max_bytes) {
    trigger("oversize"); // the server says why, as it does for every other bad file
    return;
  }
  announce("Uploading the photo…");
  try {
    const { path, url } = await upload(file);
    announce("Reading the photo…");
    props.value = {
      path, url, orig_name: file.name, size: file.size, mime_type: file.type,
      meta: { _type: "gradio.FileData" },
    };
    trigger("upload");
  } catch (error) {
    announce("");
    element.querySelector(".photo-problem").textContent =
      "The upload did not get through: check the connection and try again.";
  }
}

element.addEventListener("click", (event) => {
  const onPhoto = event.target.closest(".photo-view, .photo-zoom");
  if (props.zooms && onPhoto) trigger("zoom");
  else if (onPhoto || event.target.closest(".photo-pick")) picker().click();
});
element.addEventListener("change", (event) => {
  if (event.target !== picker()) return;
  take(event.target.files[0]);
  event.target.value = ""; // so that choosing the same file again is a change again
});

// A photo may be dropped anywhere on the page: a near miss must not make the browser leave it.
let depth = 0;
// Nor do those on another tab concern this one: nothing of it is then laid out.
const isShown = () => element.offsetParent !== null;
const hasFiles = (event) =>
  isShown() && [...(event.dataTransfer?.types ?? [])].includes("Files");
const highlight = (on) => zone()?.classList.toggle("dragging", on);
document.addEventListener("dragenter", (event) => {
  if (hasFiles(event)) { depth += 1; highlight(true); }
});
document.addEventListener("dragleave", (event) => {
  if (hasFiles(event)) { depth = Math.max(0, depth - 1); highlight(depth > 0); }
});
document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  depth = 0;
  highlight(false);
  const { files } = event.dataTransfer;
  if (files.length > 1 && document.getElementById("several")?.offsetParent) several(files);
  else take(files[0]);
});
// Several go to a part of the page that is not there before it is opened.
async function several(files) {
  const part = document.getElementById("several");
  const place = () => part.querySelector('input[type="file"]');
  if (!place()) part.querySelector("button.label-wrap").click();
  while (!place()) await new Promise(requestAnimationFrame);
  part.scrollIntoView({ block: "nearest" });
  const data = new DataTransfer();
  for (const file of files) data.items.add(file);
  place().files = data.files;
  place().dispatchEvent(new Event("change", { bubbles: true }));
}
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files?.[0];
  if (!file || !isShown()) return;
  for (const tile of document.querySelectorAll('.tile[aria-pressed="true"]')) {
    tile.setAttribute("aria-pressed", "false");
  }
  event.preventDefault();
  take(file);
});

// Split, because Gradio takes every quoted name in this script for an event of that name.
watch("value view problem".split(" "), () => announce(""));
