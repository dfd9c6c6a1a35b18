// The script of every page; without it, everything but live data still works.
import { announce } from './announce.js';

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = source.value ?? source.textContent;
  source.select?.();
  await navigator.clipboard.writeText(text);
  const before = button.textContent;
  button.textContent = 'Copied';
  announce('Copied');
  setTimeout(() => { button.textContent = before; }, 2000);
}

/** Local times, and buttons that need a script, in a page or a fragment of it. */
function enliven(root) {
  for (const time of root.querySelectorAll('time:not([data-local])')) {
    time.dataset.local = '';
    time.textContent = new Date(time.dateTime)
      .toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
  }
  for (const button of root.querySelectorAll('[data-copy]')) button.hidden = false;
}

/** Announce the state of a part that was swapped in, once: a live region would read all of it. */
let announced = '';
function tell(node) {
  const text = (node.matches('[data-announce]') ? node : node.querySelector('[data-announce]'))?.dataset.announce;
  if (!text || text === announced) return;
  announced = text;
  announce(text);
}

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('[data-copy], [data-confirm]');
  if (!button) return;
  if (button.dataset.copy) void copy(button);
  else if (!window.confirm(button.dataset.confirm)) event.preventDefault();
});
document.addEventListener('submit', (event) => {
  announced = '';
  const button = event.submitter;
  if (!button?.dataset.busy || event.defaultPrevented) return;
  // After the form's data were taken; a page that comes back from the history is as before.
  setTimeout(() => { button.disabled = true; button.textContent = button.dataset.busy; });
});
// A part of a page that did not come leaves the page as it is: the edge answers in JSON, and a lost
// connection not at all.
const trouble = document.getElementById('trouble');
function fail(status = 0, words = '') {
  trouble.hidden = false;
  trouble.textContent = words || (status === 429
    ? 'Too many requests for now. Nothing is lost; try again in a minute.'
    : 'The service did not answer. Nothing is lost; try again in a few seconds.');
}
document.addEventListener('htmx:before:response', (event) => {
  const { headers, status } = event.detail.ctx.response;
  if (headers.has('hx-redirect') || (headers.get('content-type') ?? '').startsWith('text/html')) return;
  event.preventDefault();
  fail(status);
});
document.addEventListener('htmx:after:request', (event) => {
  const { request, response: { status }, swap, text } = event.detail.ctx;
  // A refusal for now must not take the place of a part, which could not be asked for again.
  if (swap !== 'outerHTML' || (status !== 429 && status < 500)) {
    trouble.hidden = true;
    return;
  }
  event.preventDefault();
  // What a page asks for by itself comes later.
  if (request.method === 'GET') return;
  const answer = new DOMParser().parseFromString(text, 'text/html');
  fail(status, answer.querySelector('.problem')?.textContent);
});
document.addEventListener('htmx:error', (event) => { if (event.detail.ctx) fail(); });
// A button that is gone after its work leaves the focus to a heading, not to the page's begin.
let then = '';
document.addEventListener('htmx:before:swap', () => { then = document.activeElement?.dataset.then ?? ''; });
document.addEventListener('htmx:after:swap', () => {
  if (then && document.activeElement === document.body) document.getElementById(then)?.focus();
});
// A button that is disabled while its request is under way has lost the focus.
document.addEventListener('htmx:finally:request', ({ detail: { ctx } }) => {
  const [button] = ctx.disabledElements ?? [];
  setTimeout(() => {
    if (button?.isConnected && document.activeElement === document.body) button.focus();
  });
});
enliven(document);
new MutationObserver((changes) => {
  for (const { addedNodes } of changes) {
    for (const node of addedNodes) {
      if (node.nodeType !== 1) continue;
      enliven(node.parentElement ?? node);
      tell(node);
    }
  }
}).observe(document.body, { childList: true, subtree: true });
