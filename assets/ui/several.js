// Runs for the place where several photos come in, and for the table of their captions. `element`,
// `props`, `trigger` and `upload` are Gradio's. Photos are uploaded one after the other.
const picker = () => element.querySelector('input[type="file"]');
let busy = false;

async function take(files) {
  if (busy || !files.length) return;
  busy = true;
  const status = element.querySelector(".several-busy");
  const chosen = files.slice(0, props.most);
  const photos = [];
  for (const [number, file] of chosen.entries()) {
    const told = { orig_name: file.name, size: file.size };
    status.textContent = `Uploading photo ${number + 1} of ${chosen.length}…`;
    try {
      if (file.size > props.max_bytes) throw new RangeError(); // the row says so
      const { path, url } = await upload(file);
      photos.push({ ...told, path, url, mime_type: file.type, meta: { _type: "gradio.FileData" } });
    } catch {
      photos.push(told); // the server says in its row what became of it
    }
  }
  status.textContent = "";
  busy = false;
  props.value = { photos, left_out: files.length - chosen.length };
  trigger("upload");
}

element.addEventListener("click", (event) => {
  const row = event.target.closest(".row-button");
  if (row) {
    props.value = row.dataset.row;
    trigger("open");
    document.getElementById("photo").scrollIntoView({ block: "center" });
  } else if (event.target.closest(".several-pick")) picker().click();
});
element.addEventListener("change", (event) => {
  if (event.target !== picker()) return;
  take([...event.target.files]);
  event.target.value = ""; // so that choosing the same files again is a change again
});
