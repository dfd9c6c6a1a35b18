// A run's page: counts from the socket as they come; the server's own words at each change.
import { announce } from './announce.js';
import { drawAll } from './chart.js';
import { connect } from './socket.js';

const ENDED = 'run-ended';

drawAll();
const progress = () => document.getElementById('progress');
const over = (state) => ['succeeded', 'failed', 'canceled'].includes(state);

function follow() {
  const { run } = progress().dataset;
  const socket = connect();
  socket.on('benchmark_progress', ({ id, state, done, total }) => {
    const section = progress();
    if (id !== run || !section) return;
    const bar = section.querySelector('progress');
    if (bar) Object.assign(bar, { max: total || 1, value: done });
    const counts = section.querySelector('[data-counts]');
    if (counts) counts.textContent = `${done} of ${total} calls`;
    if (state !== section.dataset.state) window.htmx.trigger(section, 'refresh');
  });
  // Results are outside the part that is refreshed.
  new MutationObserver(() => {
    const { state } = progress().dataset;
    if (!over(state)) return;
    // For the page with the results: on this one, nothing would be read any more.
    sessionStorage.setItem(ENDED, state);
    location.reload();
  }).observe(document.getElementById('content'), { childList: true });
}

const ended = sessionStorage.getItem(ENDED);
if (ended) {
  sessionStorage.removeItem(ENDED);
  announce(`Run ${ended}`);
}
if (progress() && !over(progress().dataset.state)) follow();
