// WebSocket by Node's library ws, which shares no code with the gateway, nor with Python's library.
//
// serve            listens, prints its port, echoes every message; ends with its standard input.
// check PORT PATH  talks to such a server through whatever listens on PORT, prints what went wrong.
// idle PORT PATH N holds N connections open, prints "open", waits for a line, checks each of them.
'use strict';

const WebSocket = require('ws');

const MESSAGE_LEN_MAX = 4 << 20;
const PATIENCE_MS = 20_000;

// As many handshakes at once.
const OPENING = 50;

// Compression of every message, however short, for those who ask for it.
const COMPRESSION = { threshold: 0 };

/** The fields of a request that say what is wanted, by name. */
function wanted(request) {
  const names = ['sec-websocket-extensions', 'sec-websocket-protocol', 'sec-websocket-version'];
  return JSON.stringify(names.map((name) => request.headers[name] ?? null));
}

/** Messages come back as they are; some words ask for something else. */
function echo(socket, request) {
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    const word = isBinary ? '' : data.toString();
    if (word === 'close 4001') {
      socket.close(4001, 'as you wish');
    } else if (word === 'fragments') {
      socket.send('one ', { fin: false });
      socket.ping('between');
      socket.send('two ', { fin: false });
      socket.send('three', { fin: true });
    } else if (word === 'fields') {
      socket.send(wanted(request));
    } else if (word === 'path') {
      socket.send(request.url);
    } else if (word === 'abort') {
      socket.terminate();
    } else {
      socket.send(data, { binary: isBinary });
    }
  });
}

function serve() {
  const server = new WebSocket.Server({
    host: '127.0.0.1',
    port: 0,
    backlog: 1024,
    maxPayload: MESSAGE_LEN_MAX,
    perMessageDeflate: COMPRESSION,
    handleProtocols: (offered) => (offered.has('game.v2') ? 'game.v2' : false),
    verifyClient: ({ req }, decide) => {
      decide(!req.url.includes('refuse'), 403, 'not you', { 'X-Reason': 'refused' });
    },
  });
  server.on('connection', echo);
  server.on('listening', () => console.log(server.address().port));
  process.stdin.on('end', () => process.exit(0)).resume();
}

let faults = 0;

/** One line of what the test reads. */
function expect(what, found, expected) {
  if (found !== expected) {
    faults += 1;
    console.log(`${what}: ${String(found).slice(0, 200)}, not ${String(expected).slice(0, 200)}`);
  }
}

/** What comes of an event, once; an error is one. */
function once(emitter, event) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no ${event}`)), PATIENCE_MS);
    emitter.once('error', reject);
    emitter.once(event, (...all) => {
      clearTimeout(late);
      emitter.off('error', reject);
      resolve(all);
    });
  });
}

async function connect(to, options = {}, protocols = []) {
  const settings = { perMessageDeflate: false, maxPayload: MESSAGE_LEN_MAX, ...options };
  const socket = new WebSocket(to, protocols, settings);
  await once(socket, 'open');
  return socket;
}

async function closed(socket) {
  const [code, reason] = await once(socket, 'close');
  return `${code} ${reason}`;
}

/** Bytes that do not repeat soon. */
function bytes(length) {
  const some = Buffer.alloc(length);
  for (let at = 0, state = length + 1; at < length; at += 1) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    some[at] = state >>> 24;
  }
  return some;
}

/** Sends, and compares what comes back. */
async function same(what, socket, message) {
  const binary = Buffer.isBuffer(message);
  socket.send(message);
  const [data, isBinary] = await once(socket, 'message');
  expect(`${what}, kind`, isBinary, binary);
  expect(what, Buffer.compare(data, Buffer.from(message)), 0);
}

/** Both kinds, every length that is written in another way, and 1 MiB of each. */
async function checkMessages(to) {
  const socket = await connect(to);
  for (const length of [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]) {
    await same(`${length} bytes`, socket, bytes(length));
    await same(`${length} letters`, socket, 'x'.repeat(length));
  }
  await same('text', socket, 'gr\u00fc\u00dfe \u{1f3ae}');
  socket.close();
  await closed(socket);
}

/** A message in pieces, with pings between them, both ways. */
async function checkFragments(to) {
  const socket = await connect(to);
  const pongs = [];
  const pings = [];
  socket.on('pong', (data) => pongs.push(data.toString()));
  socket.on('ping', (data) => pings.push(data.toString()));
  const pieces = Array.from({ length: 50 }, (_, number) => bytes(number * 40));
  const whole = once(socket, 'message');
  pieces.forEach((piece, number) => {
    if (number === 20) socket.ping('in the middle');
    socket.send(piece, { binary: true, fin: number === 49 });
  });
  const [data, isBinary] = await whole;
  expect('fragments, kind', isBinary, true);
  expect('fragments', Buffer.compare(data, Buffer.concat(pieces)), 0);
  expect('pong', pongs.join(), 'in the middle');
  socket.send('fragments');
  expect('their fragments', (await once(socket, 'message'))[0].toString(), 'one two three');
  expect('their ping', pings.join(), 'between');
  socket.close();
  await closed(socket);
}

/** Either side begins; code and reason arrive; a cut is no close. */
async function checkClosing(to) {
  let socket = await connect(to);
  socket.close(4000, 'enough');
  expect('our close', await closed(socket), '4000 enough');
  socket = await connect(to);
  socket.close();
  expect('a close without a code', await closed(socket), '1005 ');
  socket = await connect(to);
  socket.send('close 4001');
  expect('their close', await closed(socket), '4001 as you wish');
  socket = await connect(to);
  socket.send('abort');
  expect('a cut', await closed(socket), '1006 ');
  socket = await connect(to);
  socket.send(bytes(MESSAGE_LEN_MAX + 1));
  expect('a message over their limit', await closed(socket), '1009 ');
}

/** Compression and protocols are agreed on by the two ends: what either says passes as it is. */
async function checkNegotiation(to) {
  let socket = await connect(to, {}, ['game.v1', 'game.v2']);
  expect('protocol', socket.protocol, 'game.v2');
  expect('no compression', socket.extensions, '');
  socket.send('fields');
  const plain = JSON.stringify([null, 'game.v1,game.v2', '13']);
  expect('fields', (await once(socket, 'message'))[0].toString(), plain);
  socket.terminate();
  const deflate = { ...COMPRESSION, clientMaxWindowBits: 10, serverNoContextTakeover: true };
  socket = await connect(to, { perMessageDeflate: deflate });
  const agreed =
    'permessage-deflate; server_no_context_takeover; client_max_window_bits=10';
  expect('compression', socket.extensions.length > 0, true);
  socket.send('fields');
  const offered = JSON.parse((await once(socket, 'message'))[0].toString())[0];
  expect('offer', offered, agreed);
  // Of what compresses well, little passes: compressed it is.
  const before = socket._socket.bytesRead;
  await same('1 MiB compressed', socket, 'corelane '.repeat((1 << 20) / 9));
  const passed = socket._socket.bytesRead - before;
  expect(`${passed} bytes for 1 MiB`, passed < 50_000, true);
  await same('random bytes compressed', socket, bytes(300_000));
  socket.send('in ', { fin: false, compress: true });
  socket.send('pieces', { fin: true, compress: true });
  expect('pieces', (await once(socket, 'message'))[0].toString(), 'in pieces');
  socket.close(1000);
  expect('close of a compressed one', await closed(socket), '1000 ');
}

/** What is no upgrade is passed on as the response that it is. */
async function checkRefusal(to) {
  const socket = new WebSocket(`${to}&refuse=1`);
  socket.on('error', () => {});
  const [, response] = await once(socket, 'unexpected-response');
  const found = `${response.statusCode} ${response.headers['x-reason']}`;
  expect('refusal', found, '403 refused');
  response.destroy();
}

/** Many messages before the first answer. */
async function checkPipelined(to) {
  const socket = await connect(to);
  const messages = Array.from({ length: 300 }, (_, number) => bytes((number * 37) % 20_000));
  let next = 0;
  const all = new Promise((resolve) => {
    socket.on('message', (data) => {
      expect(`message ${next}`, Buffer.compare(data, messages[next]), 0);
      next += 1;
      if (next === messages.length) resolve();
    });
  });
  messages.forEach((message) => socket.send(message));
  await all;
  socket.close();
  await closed(socket);
}

/** Everything; an empty output is good. */
async function check(port, path) {
  const to = `ws://127.0.0.1:${port}${path}`;
  const all = [
    checkMessages, checkFragments, checkClosing, checkNegotiation, checkRefusal, checkPipelined,
  ];
  for (const one of all) {
    try {
      await one(to);
    } catch (error) {
      faults += 1;
      console.log(`${one.name}: ${error}`);
    }
  }
  process.exit(faults === 0 ? 0 : 1);
}

/** Opens, a few at a time, waits, and finds all of them alive. */
async function idle(port, path, count) {
  const all = [];
  while (all.length < count) {
    const some = Array.from({ length: Math.min(OPENING, count - all.length) }, (_, number) =>
      connect(`ws://127.0.0.1:${port}${path.replace('NUMBER', all.length + number)}`));
    all.push(...(await Promise.all(some)));
  }
  console.log('open');
  await once(process.stdin, 'data');
  await Promise.all(all.map((socket, number) => same(`${number}`, socket, `hello ${number}`)));
  console.log('done');
  process.exit(0);
}

const [what, ...rest] = process.argv.slice(2);
const parts = { serve, check, idle };
parts[what](...rest);
