// A client that misses nothing, as in docs/how-to/watch.md; prints the events that it receives.
//   node follow.mjs URL TOKEN MODEL TRANSPORTS
import { io } from 'socket.io-client';

const [url, token, modelId, transports] = process.argv.slice(2);
const print = (event, data) => console.log(JSON.stringify({ event, data }));

const socket = io(url, { auth: { token }, transports: transports.split(',') });

let since; // from now on, the first time
const subscribe = () => socket.emit('subscribe_metrics', { modelId, since, cursor: true }, (answer) => {
    print('answer', answer);
    if (answer.status === 'success') since = answer.cursor ?? since;
    else if (answer.code === 5003) setTimeout(subscribe, 1000);
});

socket.on('connect', subscribe);
socket.on('gap', (gap) => { since = gap.since; subscribe(); });
socket.on('metric_update', (update) => { since = update.cursor ?? since; print('metric_update', update); });
socket.on('alert', (alert) => { since = alert.cursor ?? since; print('alert', alert); });
socket.on('benchmark_progress', (progress) => print('benchmark_progress', progress));
socket.on('server_draining', (data) => print('server_draining', data));
socket.on('disconnect', (reason) => print('disconnect', reason));
