// One polite live region for the page; more would talk over each other.
let timer = 0;

/** Tell screen readers, at most once in a second and the newest sentence only. */
export function announce(text) {
  clearTimeout(timer);
  timer = setTimeout(() => { document.getElementById('status').textContent = text; }, 1000);
}
