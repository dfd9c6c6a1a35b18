// A model's page: live points from the socket, or by polling while there is no socket.
import { announce } from './announce.js';
import { Chart, drawAll } from './chart.js';
import { connect } from './socket.js';
import { local, utc } from './times.js';

const POLL_MS = 10_000;
const content = document.getElementById('content');
const { model: modelId, window: span, metrics: place } = content.dataset;
// Metrics that stand on other pages of this model.
const elsewhere = new Set(JSON.parse(content.dataset.elsewhere));
const connection = document.getElementById('connection');
const follow = document.getElementById('follow');
const charts = new Map(drawAll().map((chart) => [chart.chart.metric, chart]));
const found = () => document.getElementById('found');
// Statistics and advice follow the charts, but need not at each update; the first ones come soon.
const STATISTICS_MS = 15_000;
const FIRST_MS = 2_000;
let readAt = -Infinity;
const WINDOW_S = { hour: 3600, day: 86_400 }[span] ?? Infinity;

function say(state, words) {
  if (connection.dataset.state !== state) announce(words);
  connection.dataset.state = state;
  connection.querySelector('[data-what]').textContent = words;
}

function updated(time) {
  const when = connection.querySelector('[data-when]');
  when.textContent = `Last update ${local(time)}`;
  when.title = utc(time);
}

const named = ({ title, unit }) => (unit ? `${title}, ${unit}` : title);

if (charts.size) updated(new Date(content.dataset.at));

/** The factor from a recorded value to the one that is shown, as `scale_of` of plots.py. */
const scaleOf = (metric) => (metric.startsWith('cost_per_inference') ? 1000 : 1);

/** The chart of a metric; a new metric has an empty one until its title and unit are read. */
function chartOf(metric, columns) {
  const found = charts.get(metric);
  if (found) return found;
  if (!columns) describe();
  document.getElementById('nothing')?.remove();
  const figure = document.createElement('figure');
  figure.className = 'chart';
  figure.dataset.metric = metric;
  const caption = document.createElement('figcaption');
  const count = document.createElement('span');
  count.className = 'quiet';
  count.textContent = columns?.caption ?? '';
  caption.append(columns ? named(columns) : metric, ' ', count);
  figure.append(caption);
  document.getElementById('charts').append(figure);
  const made = new Chart(figure, columns ?? {
    metric, title: metric, unit: '', time: true, x: [], series: [{ name: metric, value: [], low: [], high: [] }],
  });
  charts.set(metric, made);
  return made;
}

let stale;
/** Show statistics and advice anew in a while, once for all updates until then. */
function refresh() {
  stale ??= setTimeout(() => {
    stale = undefined;
    // Where somebody reads, nothing is replaced.
    if (found().contains(document.activeElement)) refresh();
    else window.htmx.trigger(found(), 'refresh');
  }, found().childElementCount ? STATISTICS_MS : FIRST_MS);
}

let requests = 0;
let applied = 0;
/** Read all charts again; an answer that a later request has overtaken is ignored. */
async function load() {
  readAt = performance.now();
  requests += 1;
  const request = requests;
  const address = `/dashboard/models/series?${new URLSearchParams({ model: modelId, window: span, metrics: place })}`;
  const answer = await fetch(address);
  // The session has ended; after the login this page comes again.
  if (answer.redirected) return location.reload();
  if (!answer.ok) throw new Error(String(answer.status));
  const { charts: drawn, at } = await answer.json();
  if (request < applied) return;
  applied = request;
  for (const columns of drawn) {
    const chart = chartOf(columns.metric, columns);
    chart.figure.querySelector('figcaption').firstChild.textContent = `${named(columns)} `;
    chart.replace(columns);
  }
  updated(new Date(at));
  if (!socket.connected) refresh();
}

let described;
/** Read titles and units, once for all metrics that are new in one update. */
function describe() {
  described ??= setTimeout(() => {
    described = undefined;
    load().catch(() => {});
  });
}

let behind;
/**
 * Read all samples in a while, once for all updates until then: of a burst, only the newest are sent.
 */
function catchUp() {
  behind ??= setTimeout(() => {
    behind = undefined;
    load().catch(catchUp);
  }, Math.max(FIRST_MS, readAt + STATISTICS_MS - performance.now()));
}

async function poll() {
  if (socket.connected) return;
  try {
    await load();
    if (!socket.connected) say('polling', 'Polling');
  } catch {
    say('away', 'No connection');
  }
}

let cursor;
const socket = connect();
const subscribe = () => socket.emit('subscribe_metrics', { modelId, since: cursor, cursor: true }, (answer) => {
  if (answer.status === 'success') {
    cursor = answer.cursor ?? cursor;
    say('live', 'Live');
  } else if (answer.code === 5003) setTimeout(subscribe, 1000);
});
socket.on('connect', subscribe);
socket.on('gap', ({ since }) => { cursor = since; subscribe(); });
socket.on('disconnect', () => { say('away', 'Connecting again'); setTimeout(poll, 1000); });
socket.on('connect_error', () => { if (connection.dataset.state === 'live') say('away', 'Connecting again'); });
socket.on('metric_update', (update) => {
  if (update.modelId !== modelId) return;
  cursor = update.cursor ?? cursor;
  const at = Date.parse(update.timestamp) / 1000;
  for (const [metric, value] of Object.entries(update.metrics)) {
    if (!elsewhere.has(metric)) chartOf(metric).append(at, value * scaleOf(metric), WINDOW_S);
  }
  updated(new Date());
  refresh();
  catchUp();
});
socket.on('alert', (alert) => {
  if (alert.modelId !== modelId) return;
  announce(alert.message);
  window.htmx.trigger(document.getElementById('alert-list'), 'refresh');
});
// A day's points are too coarse for an hour; the finer ones come once the page is there.
if ('coarse' in content.dataset) describe();
setTimeout(poll, 3000);
setInterval(poll, POLL_MS);

document.addEventListener('zoom', () => {
  follow.hidden = ![...charts.values()].some(({ zoomed }) => zoomed);
});
follow.addEventListener('click', () => { for (const chart of charts.values()) chart.follow(); });
