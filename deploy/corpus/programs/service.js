// A service's heap as it grows: a map of sessions, strings, typed arrays, and
// holes where sessions expired. It ends at a size that the sampler never asks
// for.
'use strict';

let state = 7;
function random(n) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 4294967296) * n);
}

const words = ('account admin alert banner basket browse button cache campaign cart category checkout click ' +
  'comment consent cookie country coupon dashboard device dialog discount error event export favourite ' +
  'feature filter form header history image landing language layout link list login menu mobile modal ' +
  'newsletter offer order page panel payment popup profile query rating referrer region report result ' +
  'review search session settings share shipping signup stock tablet theme token tracking user variant view').split(' ');
const word = () => words[random(words.length)];

function session(number) {
  const events = [];
  for (let i = random(12); i >= 0; i--) {
    events.push({ type: word(), at: 1700000000000 + number * 911 + i, path: '/' + word() + '/' + word() + '?id=' + random(100000) });
  }
  return {
    id: number.toString(16).padStart(8, '0') + '-' + random(4294967296).toString(36),
    user: { name: word() + ' ' + word(), agent: 'Mozilla/5.0 (X11; Linux x86_64) ' + word() + '/' + random(120) + '.0' },
    events,
    score: random(1000) / 7,
    flags: new Set([word(), word()]),
    samples: Float64Array.from({ length: 8 + random(40) }, () => random(100000) / 3),
  };
}

const sessions = new Map();
const bodies = [];
for (let number = 0; number < 3000000; number++) {
  const s = session(number);
  sessions.set(number, s);
  if (number % 8 === 0) bodies.push(Buffer.from(JSON.stringify({ id: s.id, user: s.user, events: s.events })));
  if (number % 3 === 2) sessions.delete(random(number));
}
