"""What the page itself does at events of the admin tab."""

from __future__ import annotations

# A press on Download has the file packed; this takes it.
TAKE_FILE = """(file) => {
  if (!file?.url) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.path.split("/").pop();
  link.click();
}"""
TO_FORM = "() => document.getElementById('job-new')?.scrollIntoView({behavior: 'smooth'})"
TO_JOB = (
    "() => { if (innerWidth < 860) setTimeout(() => "
    "document.getElementById('job-view')?.scrollIntoView({behavior: 'smooth'}), 150); }"
)
