// Runs before anything of Gradio's (qvla/ui/early.py puts it there), for what has to be in place by then.
//
// Gradio's notice "Loading…" counts its seconds frame by frame and is not stopped when it goes (6.31:
// StatusTracker is destroyed while its timer runs), so that an open page would draw 60 times a second
// for ever. The notice does not show that count, and until our masthead is there nothing else counts.
{
  const draw = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) => {
    const counts = String(callback).includes("performance.now()");
    return counts && !document.getElementById("masthead") ? 0 : draw(callback);
  };
}

// A photo that is chosen before the page has what it opens with would be replaced by that: choosing waits
// for this (qvla/ui/compare/keeping.py).
window.qvlaOpened = new Promise((done) => {
  window.qvlaOpen = done;
});
