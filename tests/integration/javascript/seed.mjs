// The reference's snippet, unchanged except for the address, the token and the model; prints the
// events that it receives as lines of JSON.
//   node seed.mjs URL TOKEN MODEL [EVENT]
import { io } from 'socket.io-client';

const [url, token, modelId, another] = process.argv.slice(2);
const print = (event) => (data) => console.log(JSON.stringify({ event, data }));

const socket = io(url, {
    auth: {
        token: token
    }
});

socket.emit('subscribe_metrics', {
    modelId: modelId,
    metrics: ['throughput', 'latency', 'memory_usage']
});

socket.on('metric_update', print('metric_update'));
socket.on('alert', print('alert'));

// Not in the snippet: other events, and the state of the connection.
if (another) socket.emit(another, {});
socket.on('benchmark_progress', print('benchmark_progress'));
socket.on('error', print('error'));
socket.on('connect_error', (error) => print('connect_error')(error.data ?? null));
socket.on('connect', () => print('connect')(socket.io.engine.transport.name));
socket.io.engine.on('upgrade', (transport) => print('upgrade')(transport.name));
socket.on('disconnect', print('disconnect'));
