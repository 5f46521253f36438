// Draws what status.json says, once a second. Text is only ever set as text, and styles as
// properties, so nothing that a name could hold is run.
"use strict";

const keep = 300; // seconds of history
const history = []; // {t, ...values}, oldest first
let last = null; // the view before this one
let baseline = []; // views of the last seconds, for percentiles

const $ = id => document.getElementById(id);

// make builds an element: make("td", {class: "x"}, "text", child, ...).
function make(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props || {})) {
    if (k === "color") e.style.background = v;
    else if (k === "width") e.style.width = v;
    else if (v !== undefined) e.setAttribute(k, v);
  }
  e.append(...children.filter(c => c !== null && c !== undefined));
  return e;
}

// Numbers as people read them.
function bytes(n) {
  if (!(n >= 1)) return "0 B";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  while (n >= 1023.5 && i < units.length - 1) { n /= 1024; i++; }
  return (n >= 99.95 || i === 0 ? n.toFixed(0) : n >= 9.995 ? n.toFixed(1) : n.toFixed(2)) + " " + units[i];
}
function count(n) {
  if (!isFinite(n)) return "–";
  const units = ["", " k", " M", " G", " T"];
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) { n /= 1000; i++; }
  return (i === 0 ? (n >= 10 || n === Math.round(n) ? n.toFixed(0) : n.toFixed(1)) : n >= 99.95 ? n.toFixed(0) : n.toFixed(1)) + units[i];
}
function seconds(s) {
  if (!(s > 0)) return "–";
  if (s < 1e-6) return (s * 1e9).toFixed(0) + " ns";
  if (s < 1e-3) return (s * 1e6).toFixed(s < 1e-5 ? 1 : 0) + " µs";
  if (s < 1) return (s * 1e3).toFixed(s < 1e-2 ? 1 : 0) + " ms";
  return s.toFixed(1) + " s";
}
function uptime(ms) {
  const s = Math.floor(ms / 1000), d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min` : `${s} s`;
}
const ratio = n => n > 0 ? n.toFixed(2) : "–";
const rate = n => count(n) + "/s";

// Colors: a backend keeps the one that it was first seen with.
const given = new Map();
function ink(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }
function colorOf(name) {
  if (!given.has(name)) given.set(name, "c" + given.size % 6);
  return ink(given.get(name));
}

// percentile reads it from buckets that are not cumulative, between the bounds.
function percentile(buckets, bounds, q) {
  const total = buckets.reduce((a, b) => a + b, 0);
  if (total <= 0) return NaN;
  let left = q * total;
  for (let i = 0; i < buckets.length; i++) {
    if (left <= buckets[i] && buckets[i] > 0) {
      const low = i ? bounds[i - 1] : 0, high = i < bounds.length ? bounds[i] : low * 2;
      return low + (high - low) * left / buckets[i];
    }
    left -= buckets[i];
  }
  return bounds[bounds.length - 1];
}

// chart draws lines, or a stack, of history into a canvas and fills its legend.
function chart(id, series, format, options = {}) {
  const canvas = $(id), g = canvas.getContext("2d"), scale = window.devicePixelRatio || 1;
  const w = canvas.clientWidth, h = canvas.clientHeight;
  if (!w || !h) return;
  if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
    canvas.width = Math.round(w * scale);
    canvas.height = Math.round(h * scale);
  }
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, w, h);
  const now = history.length ? history[history.length - 1].t : 0;
  const span = Math.max(60, Math.min(keep, history.length ? (now - history[0].t) / 1000 : 60));
  const value = (p, s) => { const v = s.of(p); return isFinite(v) ? v : options.stack ? 0 : NaN; };
  let top = 0;
  for (const p of history) {
    let sum = 0;
    for (const s of series) { const v = value(p, s); if (isNaN(v)) continue; sum = options.stack ? sum + v : Math.max(sum, v); }
    top = Math.max(top, sum);
  }
  top = nice(top || options.least || 1, options.binary);
  const ticks = h > 150 ? 4 : 2, labels = Array.from({length: ticks + 1}, (_, i) => i ? format(top * i / ticks) : "0");
  g.font = "11px system-ui, sans-serif";
  const left = 10 + Math.max(36, ...labels.map(l => Math.ceil(g.measureText(l).width))), bottom = 18, right = 4, head = 6;
  const x = t => left + (w - left - right) * (1 - (now - t) / 1000 / span);
  const y = v => head + (h - head - bottom) * (1 - v / top);
  g.textBaseline = "middle";
  g.strokeStyle = ink("line");
  g.fillStyle = ink("dim");
  g.lineWidth = 1;
  for (let i = 0; i <= ticks; i++) {
    const v = top * i / ticks, at = Math.round(y(v)) + .5;
    g.beginPath(); g.moveTo(left, at); g.lineTo(w - right, at); g.stroke();
    g.textAlign = "right";
    g.fillText(labels[i], left - 7, at);
  }
  g.textAlign = "left"; g.fillText(`${Math.round(span)} s ago`, left, h - 7);
  g.textAlign = "right"; g.fillText("now", w - right, h - 7);
  g.save();
  g.beginPath(); g.rect(left, 0, w - left, h - bottom + 1); g.clip();
  if (options.stack) stack(g, series, value, x, y);
  else lines(g, series, value, x, y);
  g.restore();
  const legend = options.legend || canvas.parentElement.querySelector(".legend");
  const latest = history[history.length - 1];
  legend.replaceChildren(...series.map(s => make("li", {}, make("i", {color: s.color, class: s.dash ? "dash" : undefined}), s.name, make("b", {}, latest ? format(s.of(latest)) : "–"))));
  if (!series.length) legend.replaceChildren(make("li", {}, "none so far"));
}

function nice(v, binary) {
  const base = binary ? 1024 : 1000;
  let unit = 1;
  while (v / unit >= base) unit *= base;
  while (v / unit < 1 && v > 0) unit /= 10;
  for (const step of [1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 40, 50, 60, 80, 100, 128, 160, 200, 256, 300, 400, 512, 600, 800, base]) {
    if (step * unit >= v) return step * unit;
  }
  return v;
}

function lines(g, series, value, x, y) {
  for (const s of series) {
    g.strokeStyle = g.fillStyle = s.color;
    g.lineWidth = 1.6;
    g.lineJoin = "round";
    let run = []; // points without a gap between them
    const draw = () => {
      if (!run.length) return;
      g.beginPath();
      run.forEach(([px, py], i) => i ? g.lineTo(px, py) : g.moveTo(px, py));
      g.setLineDash(s.dash ? [4, 3] : []);
      g.stroke();
      if (s.fill) {
        g.lineTo(run[run.length - 1][0], y(0));
        g.lineTo(run[0][0], y(0));
        g.globalAlpha = .13;
        g.fill();
        g.globalAlpha = 1;
      }
      run = [];
    };
    for (const p of history) {
      const v = value(p, s);
      if (isNaN(v)) draw();
      else run.push([x(p.t), y(v)]);
    }
    draw();
  }
}

function stack(g, series, value, x, y) {
  const floor = history.map(() => 0);
  for (const s of series) {
    const roof = history.map((p, i) => floor[i] + value(p, s));
    g.beginPath();
    history.forEach((p, i) => i ? g.lineTo(x(p.t), y(roof[i])) : g.moveTo(x(p.t), y(roof[i])));
    for (let i = history.length - 1; i >= 0; i--) g.lineTo(x(history[i].t), y(floor[i]));
    g.closePath();
    g.globalAlpha = .82;
    g.fillStyle = s.color;
    g.fill();
    g.globalAlpha = 1;
    roof.forEach((v, i) => { floor[i] = v; });
  }
}

// bar fills a bar with parts of a whole.
function bar(e, parts, whole) {
  while (e.children.length > parts.length) e.lastChild.remove();
  while (e.children.length < parts.length) e.append(make("i"));
  parts.forEach((p, i) => {
    e.children[i].style.background = p.color;
    e.children[i].style.width = (whole > 0 ? 100 * Math.max(0, p.n) / whole : 0) + "%";
    e.children[i].title = p.title || "";
  });
  return e;
}

function table(id, heads, rows) {
  $(id + "-section") && ($(id + "-section").hidden = rows.length === 0);
  $(id).replaceChildren(
    make("thead", {}, make("tr", {}, ...heads.map(h => make("th", {}, h)))),
    make("tbody", {}, ...rows.map(r => make("tr", {}, ...r.map(c => make("td", {}, c))))));
}

const command = (v, name) => v.requests.find(r => r.command === name) || {count: 0, bytes: 0, errors: 0, buckets: []};
const sum = list => list.reduce((a, b) => a + b, 0);
const byName = (list, name) => (list || []).find(x => x.name === name);
const refusedOf = b => sum(Object.values(b.refused));

// point is what history keeps of a view: gauges, and rates since the view before.
function point(v, before) {
  const dt = (v.time - before.time) / 1000, page = v.page_size;
  const per = (now, then) => Math.max(0, now - then) / dt;
  const p = {t: v.time, owners: {}, refused: {}, in: {}, out: {}};
  for (const [name, n] of Object.entries(v.pages.backends)) p.owners[name] = n * page;
  p.disk = v.pages.storage * page;
  p.lost = v.pages.lost * page;
  p.readBytes = per(command(v, "read").bytes, command(before, "read").bytes);
  p.writeBytes = per(command(v, "write").bytes, command(before, "write").bytes);
  p.reads = per(command(v, "read").count, command(before, "read").count);
  p.writes = per(command(v, "write").count, command(before, "write").count);
  p.errors = sum(v.requests.map(r => r.errors));
  p.storageRead = per(v.storage.read, before.storage.read);
  p.storageWritten = per(v.storage.written, before.storage.written);
  let data = 0, held = 0;
  for (const b of v.backends) {
    const then = byName(before.backends, b.name) || b;
    data += (b.pages + b.ephemeral) * page;
    held += b.held;
    p.in[b.name] = per(b.accepted, then.accepted);
    p.out[b.name] = per(b.loads.count, then.loads.count) * v.sample_every;
    for (const [reason, n] of Object.entries(b.refused)) {
      p.refused[reason] = (p.refused[reason] || 0) + per(n, then.refused[reason] || 0);
    }
  }
  p.data = data;
  p.held = held;
  p.ratio = held > 0 ? data / held : NaN;
  // Percentiles over the last five seconds: one alone has too few requests.
  const old = baseline[0] || before;
  for (const name of ["read", "write"]) {
    const then = command(old, name).buckets, diff = command(v, name).buckets.map((n, i) => n - (then[i] || 0));
    p[name + "50"] = percentile(diff, v.bounds, .5);
    p[name + "99"] = percentile(diff, v.bounds, .99);
  }
  return p;
}

function tile(name, value, note, bad) {
  return make("div", {class: "tile" + (bad ? " bad" : "")}, make("small", {}, name), make("b", {}, value), make("small", {}, note || "\u00a0"));
}

function drawTiles(v, p) {
  const saved = p.data - p.held;
  $("tiles").replaceChildren(
    tile("In backends", bytes(p.data), count(p.data / v.page_size) + " pages"),
    tile("Memory for it", bytes(p.held), saved > 0 ? bytes(saved) + " saved" : ""),
    tile("Ratio", ratio(p.ratio), "data : memory"),
    tile("On storage", bytes(p.disk), v.storage.stale > 0 ? bytes(v.storage.stale) + " stale" : bytes(v.storage.allocated) + " allocated"),
    tile("Swapped out", bytes(p.writeBytes) + "/s", rate(p.writes) + " writes"),
    tile("Swapped in", bytes(p.readBytes) + "/s", rate(p.reads) + " reads"),
    tile("Read p99", seconds(p.read99), "median " + seconds(p.read50)),
    tile("Errors", count(p.errors), p.errors || v.pages.lost ? "requests answered with one" : count(v.clients) + (v.clients === 1 ? " connection" : " connections"), p.errors > 0));
}

function drawWhere(v) {
  const page = v.page_size, parts = Object.keys(v.pages.backends).map(name => ({name, color: colorOf(name), n: v.pages.backends[name]}));
  parts.push({name: "storage", color: ink("disk"), n: v.pages.storage});
  if (v.pages.lost) parts.push({name: "lost", color: ink("lost"), n: v.pages.lost});
  const rest = [{name: "holes", color: ink("hole"), n: v.pages.hole}];
  bar($("where-bar"), [...parts, ...rest].map(p => ({...p, title: `${p.name}: ${bytes(p.n * page)}`})), v.pages.total);
  const series = parts.map(p => ({name: p.name, color: p.color, of: h => p.name === "storage" ? h.disk : p.name === "lost" ? h.lost : h.owners[p.name] || 0}));
  chart("where", series, bytes, {stack: true, binary: true, legend: $("where-legend")});
  const free = v.pages.none + v.pages.hole;
  $("where-legend").append(make("li", {}, make("i", {color: ink("hole")}), "not in use", make("b", {}, bytes(free * page))),
    make("li", {}, "of", make("b", {}, bytes(v.pages.total * page))));
}

function drawCharts(v) {
  const names = v.backends.map(b => b.name);
  chart("traffic", [
    {name: "out", color: ink("out"), of: p => p.writeBytes, fill: true},
    {name: "in", color: ink("in"), of: p => p.readBytes, fill: true},
  ], n => bytes(n) + "/s", {binary: true, least: 1 << 20});
  chart("latency", [
    {name: "read p50", color: ink("in"), of: p => p.read50}, {name: "p99", color: ink("c1"), of: p => p.read99},
    {name: "write p50", color: ink("out"), of: p => p.write50}, {name: "p99", color: ink("c5"), of: p => p.write99},
  ], seconds, {least: 1e-3});
  chart("flow", names.flatMap(name => [
    {name: name + " in", color: colorOf(name), of: p => p.in[name] || 0},
    {name: name + " out ≈", color: colorOf(name), dash: true, of: p => p.out[name] || 0},
  ]), rate, {least: 100});
  const reasons = [...new Set(history.flatMap(p => Object.keys(p.refused)))].sort();
  chart("refused", reasons.map((reason, i) => ({name: reason, color: ink("c" + (i + 2) % 6), of: p => p.refused[reason] || 0, fill: true})), rate, {least: 10});
  chart("ratio", [{name: "data to memory", color: ink("c0"), of: p => p.ratio, fill: true}], n => n.toFixed(2), {least: 4});
  chart("storage", [
    {name: "written", color: ink("out"), of: p => p.storageWritten, fill: true},
    {name: "read", color: ink("in"), of: p => p.storageRead, fill: true},
  ], rate, {least: 100});
}

const stateClass = {active: "good", registered: "", draining: "warn", frozen: "warn", failed: "bad"};

function entry(name, value) { return [make("dt", {}, name), make("dd", {}, value)]; }

function drawBackends(v, before, p) {
  $("backends-section").hidden = v.backends.length === 0;
  $("backends").replaceChildren(...v.backends.map(b => {
    const then = byName(before.backends, b.name) || b, page = v.page_size, data = (b.pages + b.ephemeral) * page;
    const average = (now, old) => now.count > old.count ? seconds((now.seconds - old.seconds) / (now.count - old.count)) : now.count ? seconds(now.seconds / now.count) : "–";
    const limit = b.limit || b.max, color = colorOf(b.name);
    const card = make("div", {class: "card"},
      make("h3", {}, make("span", {}, b.name), b.kind === b.name ? null : make("span", {class: "dim"}, b.kind), make("span", {class: "pill " + (stateClass[b.state] || "")}, b.state)),
      bar(make("div", {class: "bar"}), [{n: b.held, color}], limit || b.held),
      make("p", {class: "note"}, limit ? `${bytes(b.held)} of ${bytes(limit)}` + (b.max > b.limit ? `, up to ${bytes(b.max)} while memory is not short` : "") : bytes(b.held) + ", no limit"));
    const list = make("dl", {});
    for (const [name, value] of [
      ["Data", bytes(data)], ["Ratio", ratio(b.held > 0 ? data / b.held : NaN)], ["Refused", count(refusedOf(b))],
      ["In", rate(p.in[b.name] || 0)], ["Out", "≈ " + rate(p.out[b.name] || 0)], ["Errors", count(b.errors)],
      ["Store", average(b.stores, then.stores)], ["Load", average(b.loads, then.loads)], ["Host stalls", (100 * b.stall).toFixed(1) + " %"],
    ]) list.append(make("div", {}, ...entry(name, value)));
    card.append(list);
    if (b.move) {
      card.append(make("div", {class: "note"}, `moving its pages: ${bytes(b.move.moved * page)} moved, ${bytes(b.move.left * page)} left`,
        bar(make("div", {class: "bar"}), [{n: b.move.moved, color: ink("warn")}], b.move.moved + b.move.left)));
    }
    return card;
  }));
}

function drawTables(v, before) {
  const dt = (v.time - before.time) / 1000, page = v.page_size;
  table("exports", ["Export", "Size", "Where", "Clients", "Out", "In", "Storage", "Stale", "Writethrough", "Errors"], v.exports.map(x => {
    const then = byName(before.exports, x.name) || x;
    const parts = Object.keys(x.pages.backends).map(name => ({n: x.pages.backends[name], color: colorOf(name), title: `${name}: ${bytes(x.pages.backends[name] * page)}`}));
    parts.push({n: x.pages.storage, color: ink("disk"), title: `storage: ${bytes(x.pages.storage * page)}`}, {n: x.pages.lost, color: ink("lost")}, {n: x.pages.hole, color: ink("hole"), title: "holes"});
    return [x.name, bytes(x.size), bar(make("div", {class: "bar"}), parts, x.pages.total), x.clients, bytes((x.writes - then.writes) / dt) + "/s", bytes((x.reads - then.reads) / dt) + "/s",
      bytes(x.allocated), bytes(x.stale), x.mode, make("span", {class: x.errors ? "bad-text" : ""}, count(x.errors))];
  }));
  $("left-out").hidden = !v.left_out;
  $("left-out").textContent = v.left_out ? `${v.left_out} more are not shown; /metrics has them all.` : "";
  table("disks", ["Disk", "Size", "Clients", "Cached", "Hits", "Misses", "Hit rate", "Mode", "Errors"], v.disks.map(d => [
    d.name, bytes(d.size), d.clients, bytes(d.cached * page), count(d.hits), count(d.misses),
    d.hits + d.misses ? (100 * d.hits / (d.hits + d.misses)).toFixed(1) + " %" : "–", d.mode, count(d.errors)]));
  table("donors", ["Donor", "Backend", "State", "Data", "Free", "Wants back", "Latency", "Bad answers"], v.donors.map(d => [
    d.name, d.backend, make("span", {class: "pill " + (d.up ? "good" : "bad")}, d.up ? "up" : "down"), bytes(d.pages * page), bytes(d.free), bytes(d.wanted), seconds(d.seconds), count(d.bad)]));
  const l = v.lent;
  table("lent", ["Borrower", "Data", "Memory", "Quota"], l ? l.borrowers.map(b => [b.name, bytes(b.pages * page), bytes(b.used), bytes(b.quota)]) : []);
  $("lent-section").hidden = !l;
  if (l) bar($("lent-bar"), [{n: l.held, color: ink("c3"), title: `${bytes(l.held)} of ${bytes(l.limit)}`}], l.limit);
  table("memory", ["Purpose", "Resident", "Mapped"], v.memory.filter(m => m.mapped > 0).map(m => [m.purpose, bytes(m.resident), bytes(m.mapped)]));
  $("measures").replaceChildren(...(v.measures.length ? v.measures.map(m => make("span", {class: "pill " + (m.on ? "good" : "bad")}, (m.on ? "✓ " : "✗ ") + m.name.replaceAll("_", " ")))
    : [make("span", {class: "dim"}, "not asked for: this host does not swap through the daemon, or was not said to")]));
}

function drawHealth(v) {
  const good = v.phase === "serving" && !v.unready;
  $("health").className = "pill " + (good ? "good" : "warn");
  $("health").textContent = good ? "serving" : v.phase === "serving" ? "not ready" : v.phase;
  $("about").textContent = `${v.version} · up ${uptime(v.time - v.started)} · ${location.host}`;
  $("about").title = `${v.revision}, ${v.go}`;
  const problems = [];
  if (v.unready) problems.push(v.unready);
  if (v.pages.lost) problems.push(`${count(v.pages.lost)} pages are lost`);
  for (const b of v.backends) if (b.state === "failed") problems.push(`backend ${b.name} failed`);
  for (const d of v.donors) if (!d.up) problems.push(`donor ${d.name} is down`);
  warn(problems.join(" · "));
}

function warn(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

function draw(v) {
  if (last && (v.started !== last.started || v.time < last.time)) { // another program: counters began anew
    last = null;
    baseline = [];
    history.length = 0;
  }
  if (!last) {
    last = v;
    drawHealth(v);
    return;
  }
  if (v.time === last.time) return;
  const p = point(v, last);
  history.push(p);
  while (history.length && history[0].t < v.time - keep * 1000) history.shift();
  baseline.push(last);
  while (baseline.length > 1 && baseline[0].time < v.time - 5000) baseline.shift();
  const before = last;
  last = v;
  drawHealth(v);
  drawTiles(v, p);
  drawWhere(v);
  drawCharts(v);
  drawBackends(v, before, p);
  drawTables(v, before);
  document.body.dataset.points = history.length;
}

let timer = 0, asking = false;

async function poll() {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  let wait = 1000;
  try {
    const answer = await fetch("status.json", {cache: "no-store", signal: AbortSignal.timeout(8000)});
    if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
    const view = await answer.json();
    $("pulse").classList.add("lit");
    setTimeout(() => $("pulse").classList.remove("lit"), 120);
    draw(view);
    if (!history.length) wait = 450; // rates take two views
  } catch (e) {
    wait = 3000;
    $("health").className = "pill bad";
    $("health").textContent = "no answer";
    warn("The daemon does not answer: " + e.message);
    console.error(e);
  }
  asking = false;
  if (!document.hidden) timer = setTimeout(poll, wait); // nobody looks: nothing is asked
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
window.addEventListener("resize", () => { if (last) { drawWhere(last); drawCharts(last); } });
poll();
