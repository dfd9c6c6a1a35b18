// "Try it": sends the form's request to the page's own origin, and shows the answer.
import { announce } from './announce.js';

const form = document.getElementById('call');
const field = (name) => document.getElementById(name);
// In this tab alone, until it is closed.
const KEY = 'lilypad-key';
const MADE = 'lilypad-made';
const SHOWN_CHARACTERS = 200_000;

/** The request's credentials: those typed in, without a cookie, or else the session's cookie. */
function caller() {
  const headers = credentials();
  // If cookies may be sent, the browser itself asks for a password when one is wrong.
  return { headers, credentials: headers.Authorization ? 'omit' : 'same-origin' };
}

function credentials() {
  const key = field('key')?.value.trim();
  if (key) return { Authorization: `Bearer ${key}` };
  const email = field('email')?.value.trim();
  const password = field('password')?.value;
  if (!email || !password) return {};
  const bytes = new TextEncoder().encode(`${email}:${password}`);
  const code = field('code').value.trim();
  return {
    Authorization: `Basic ${btoa(String.fromCharCode(...bytes))}`,
    ...(code && { 'X-Lilypad-Code': code }),
  };
}

/** The address with the values of the path's parameters that are filled in. */
function filled(path) {
  let address = path;
  for (const input of form.querySelectorAll('[data-place=path]')) {
    address = address.replace(`{${input.dataset.name}}`, encodeURIComponent(input.value.trim()));
  }
  return address;
}

function request() {
  const { headers, ...options } = caller();
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll('[data-place]')) {
    const { name, place } = input.dataset;
    const value = input.value.trim();
    if (value && place === 'header') headers[name] = value;
    if (value && place === 'query') query.set(name, value);
  }
  const body = field('body')?.value;
  if (body) headers['Content-Type'] = 'application/json';
  const behind = query.size ? `?${query}` : '';
  return [filled(form.dataset.path) + behind, { ...options, method: form.dataset.method, headers, body }];
}

async function show(response, milliseconds) {
  const type = response.headers.get('Content-Type') ?? '';
  const file = field('answer-file');
  let text = '';
  file.hidden = !response.ok || !type || type.includes('json');
  if (file.hidden) text = await response.text();
  else {
    URL.revokeObjectURL(file.href);
    file.href = URL.createObjectURL(await response.blob());
    file.download = response.headers.get('Content-Disposition')?.match(/filename="(.+)"/)?.[1] ?? '';
  }
  try {
    const answer = JSON.parse(text);
    text = JSON.stringify(answer, null, 2);
    if (response.ok) remember(answer.data);
  } catch { /* no JSON: an empty answer, or a file's */ }
  field('answer-headers').textContent = [...response.headers].map((pair) => pair.join(': ')).join('\n');
  field('answer-body').textContent = text.slice(0, SHOWN_CHARACTERS);
  field('answer-body').parentElement.hidden = !text;
  return `${response.status} ${response.statusText}`.trim();
}

/** Keep the created object's id, for the pages of operations that use it. */
function remember(data) {
  if (form.dataset.method !== 'POST' || typeof data?.id !== 'string') return;
  const made = JSON.parse(sessionStorage.getItem(MADE) ?? '{}');
  made[filled(form.dataset.path)] = data.id;
  sessionStorage.setItem(MADE, JSON.stringify(made));
}

/** Fill in an existing id: one that this tab created, or else the newest of the list. */
async function fill(input) {
  const address = filled(input.dataset.listed);
  const made = JSON.parse(sessionStorage.getItem(MADE) ?? '{}')[address];
  if (made && !input.value) input.value = made;
  const { headers, ...options } = caller();
  if (!headers.Authorization && !(field('email') && 'loggedIn' in form.dataset)) return;
  const beta = form.querySelector('[data-name=X-Lilypad-Beta]')?.value;
  if (beta) headers['X-Lilypad-Beta'] = beta;
  const response = await fetch(address, { ...options, headers });
  if (!response.ok) return;
  const { data } = await response.json();
  const rows = Object.values(data).find(Array.isArray) ?? [];
  field(input.getAttribute('list')).replaceChildren(
    ...rows.map(({ id }) => Object.assign(document.createElement('option'), { value: id })),
  );
  // Of the sessions, any but this page's own.
  const chosen = rows.find(({ current }) => !current);
  if (chosen && !input.value) input.value = chosen.id;
}

async function fillAll() {
  for (const input of form.querySelectorAll('[data-listed]:not([data-listed=""])')) await fill(input);
}

async function makeKey() {
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const response = await fetch('/v1/api/keys', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: 'documentation', expiresAt }),
  });
  const { data, error } = await response.json();
  if (error) announce(error.message);
  else {
    field('key').value = data.key;
    keep();
    announce('A key for an hour is filled in');
  }
}

function keep() {
  sessionStorage.setItem(KEY, field('key').value.trim());
  void fillAll();
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const status = field('answer-status');
  field('answer').hidden = false;
  form.setAttribute('aria-busy', 'true');
  status.textContent = 'Sending …';
  const began = performance.now();
  try {
    status.textContent = await show(await fetch(...request()));
  } catch (error) {
    status.textContent = `Not sent: ${error.message}`;
  }
  field('answer-time').textContent = `${Math.round(performance.now() - began)} ms`;
  form.removeAttribute('aria-busy');
});
if (field('key')) {
  field('key').value = sessionStorage.getItem(KEY) ?? '';
  field('key').addEventListener('change', keep);
}
field('password')?.addEventListener('change', () => void fillAll());
const make = field('make-key');
if (make) {
  make.hidden = false;
  make.addEventListener('click', () => void makeKey());
}
void fillAll();
