// Runs once for the list of jobs: a press on one sets the value and fires the event "pick".
element.addEventListener("click", (event) => {
  const job = event.target.closest("[data-job]");
  if (!job) return;
  props.value = job.dataset.job;
  trigger("pick");
});
