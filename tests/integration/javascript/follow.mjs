// A client that misses nothing, as docs/how-to/watch.md says; prints what it hears.
//   node follow.mjs URL TOKEN MODEL TRANSPORTS
import { io } from 'socket.io-client';

const [url, token, modelId, transports] = process.argv.slice(2);
const print = (event, data) => console.log(JSON.stringify({ event, data }));

let since = new Date().toISOString();
const socket = io(url, { auth: { token }, transports: transports.split(',') });
const subscribe = (from) => socket.emit('subscribe_metrics', { modelId, since: from },
    (answer) => print('answer', answer));

socket.on('connect', () => subscribe(since));
socket.on('gap', (gap) => subscribe(gap.since));
socket.on('metric_update', (update) => { since = update.timestamp; print('metric_update', update); });
socket.on('alert', (alert) => print('alert', alert));
socket.on('server_draining', (data) => print('server_draining', data));
socket.on('disconnect', (reason) => print('disconnect', reason));
