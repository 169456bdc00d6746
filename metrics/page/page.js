// The page's whole script. It polls `page/now` for what is new of every group, and `page/past` once for the group that is looked
// at; keeps both here; and draws. All text goes in as text nodes: names are whatever somebody called a container.
"use strict";

const root = document.documentElement.dataset.root;
const $ = (id) => document.getElementById(id);
const SPARK = 60; // moments that a small line shows
const ROWS = 300; // table rows that are drawn at once

const state = {
  tag: "", last: 0, groups: [], byPath: new Map(), machine: {}, systems: [], at: {},
  recent: new Map(), // path -> the newest moments [when, row]
  long: new Map(), // path -> all moments, of groups that are looked at
  selected: "/", docker: false, seen: null, span: 120, keeps: 120, interval: 1,
  sort: { key: "cpu", down: true }, query: "", paused: false, hover: null, clock: 0,
};

// ---- making elements and words

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

// Names that were no UTF-8 have half characters, which no address can have.
const address = (text) => encodeURIComponent(text.replace(/\p{Surrogate}/gu, "\ufffd"));
const missing = (value) => value === null || value === undefined;

function digits(value) {
  if (Number.isInteger(value)) return String(value);
  return value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

function bytes(value) {
  if (missing(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${at === 0 ? Math.round(value) : digits(value)} ${units[at]}`;
}

const speed = (value) => (missing(value) ? "–" : `${bytes(value)}/s`);
const cores = (value) => (missing(value) ? "–" : value > 0 && value < 0.9995 ? `${value < 0.00995 ? (value * 1000).toFixed(1) : Math.round(value * 1000)}m` : digits(value));
const share = (value) => (missing(value) ? "–" : `${value > 0 && value < 0.0995 ? (value * 100).toFixed(1) : Math.round(value * 100)} %`);
const count = (value) => (missing(value) ? "–" : value.toLocaleString("en"));

function age(seconds, whole = true) {
  const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(0, steps.findIndex(([size]) => seconds >= size));
  const [size, unit] = seconds < 1 ? [1, "s"] : steps[at];
  const rest = at < 3 && seconds >= (whole ? 3600 : 60) ? Math.floor((seconds % size) / steps[at + 1][0]) : 0;
  return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${steps[at + 1][1]}` : ""}`;
}

function titleOf(group) {
  if (group.path === "/" || group.kind === "root") return "Machine";
  if (group.kind === "pod") return group.pod || group.path.split("/").pop();
  if (group.kind === "sandbox") return group.pod ? "sandbox" : group.name;
  return group.container || group.name || group.path.split("/").pop();
}

function placeOf(group) {
  if (group.kind === "root") return "";
  if (group.pod && group.kind !== "pod") return `${group.namespace} / ${group.pod}`;
  return group.kind === "pod" ? group.namespace : group.image || group.path;
}

// ---- what is known

function put(answer) {
  if (answer.list) {
    state.groups = answer.list;
    state.byPath = new Map(answer.list.map((group) => [group.path, group]));
    state.machine = answer.machine;
    state.at = Object.fromEntries(answer.shown.map((name, at) => [name, at]));
    state.tag = answer.groups;
    for (const group of state.groups) group.within = podAbove(group.path);
    for (const path of state.recent.keys()) if (!state.byPath.has(path)) state.recent.delete(path);
  }
  state.systems = answer.filesystems;
  state.keeps = answer.keeps;
  state.load = answer.load;
  state.interval = answer.interval;
  state.clock = answer.when;
  for (const [when, rows] of answer.frames) {
    state.last = Math.max(state.last, when);
    rows.forEach((row, at) => {
      if (row === null) return;
      const path = state.groups[at].path;
      keep(state.recent, path, when, row, SPARK + 1);
      if (state.long.has(path)) keep(state.long, path, when, row, 2100);
    });
  }
}

function keep(where, path, when, row, most) {
  if (!where.has(path)) where.set(path, []);
  const moments = where.get(path);
  if (moments.length && moments[moments.length - 1][0] >= when) return;
  moments.push([when, row]);
  if (moments.length > most) moments.splice(0, moments.length - most);
}

function now(path, name) {
  const moments = state.recent.get(path);
  return moments && moments.length ? moments[moments.length - 1][1][state.at[name]] : null;
}

function rootPath() {
  const found = state.groups.find((group) => group.kind === "root");
  return found ? found.path : "/";
}

// A container in a pod has the pod's network.
function networkOf(group) {
  if (!missing(now(group.path, "rx"))) return group;
  return group.within || group;
}

function podAbove(path) {
  for (let up = path.slice(0, path.lastIndexOf("/")); up; up = up.slice(0, up.lastIndexOf("/"))) {
    const above = state.byPath.get(up);
    if (above && above.kind === "pod") return above;
  }
  return null;
}

async function look() {
  const group = state.byPath.get(state.selected);
  if (!group) return;
  for (const path of new Set([group.path, networkOf(group).path])) {
    if (state.long.has(path)) continue;
    const answer = await fetch(`${root}/page/past?path=${address(path)}`);
    if (!answer.ok) continue;
    const past = await answer.json();
    const newer = (state.recent.get(path) || []).filter(([when]) => !past.moments.length || when > past.moments[past.moments.length - 1][0]);
    state.long.set(path, past.moments.concat(newer));
  }
}

// ---- plots

const PLOTS = [
  { id: "cpu", title: "CPU", format: cores, floor: 0.01, series: [["cpu", "used"]], unit: "cores", cap: (g) => (g.kind === "root" ? state.machine.cores : g.cpu_limit) },
  { id: "memory", title: "Memory", format: bytes, floor: 1 << 20, binary: true, series: [["working_set", "working set"], ["rss", "rss"], ["cache", "cache"]], cap: (g) => (g.kind === "root" ? state.machine.memory : g.memory_limit) },
  { id: "network", title: "Network", format: speed, floor: 1024, binary: true, series: [["rx", "received"], ["tx", "sent"]], from: networkOf, why: () => "No network of its own, or it cannot be read." },
  { id: "io", title: "Disk", format: speed, floor: 4096, binary: true, series: [["read", "read"], ["write", "written"]], why: () => "Nothing read or written, or nobody counts it here." },
  { id: "throttled", title: "Throttled", format: share, floor: 0.05, most: 1, series: [["throttled", "of periods"]], why: (g) => (g.kind === "root" || missing(g.cpu_limit) ? "No CPU limit, so nothing to throttle." : "") , when: (g) => g.kind !== "root" && !missing(g.cpu_limit) },
  { id: "pressure", title: "Pressure (PSI)", format: share, floor: 0.05, most: 1, series: [["cpu_some", "CPU"], ["memory_some", "memory"], ["io_some", "disk"]], why: () => "The kernel counts no pressure here (cgroup version 1, or psi=0)." },
];

function nice(top, binary) {
  if (binary) { // powers of two, and halves between, so that labels are whole
    let size = 1;
    while (size < top) size *= 2;
    return size * 0.75 >= top ? size * 0.75 : size;
  }
  const power = 10 ** Math.floor(Math.log10(top));
  for (const step of [1, 1.5, 2, 3, 4, 5, 6, 8, 10]) if (step * power >= top * 0.9999) return step * power;
  return 10 * power;
}

function plotCard(plot) {
  const legend = make("p", { class: "legend" });
  const limit = make("span", { class: "limit" });
  const picture = draw("svg", { role: "img" });
  const why = make("p", { class: "why quiet", hidden: "" });
  const card = make("figure", { class: "plot", id: `plot-${plot.id}` }, make("div", { class: "head" }, make("h2", {}, plot.title), limit), legend, picture, why);
  const move = (event) => {
    const box = picture.getBoundingClientRect();
    state.hover = { share: Math.min(1, Math.max(0, (event.clientX - box.left) / (box.width || 1))) };
    plots();
  };
  picture.addEventListener("pointermove", move);
  picture.addEventListener("pointerdown", move);
  picture.addEventListener("pointerleave", () => { state.hover = null; plots(); });
  Object.assign(plot, { card, legend, limit, picture, reason: why });
  return card;
}

function plots() {
  const group = state.byPath.get(state.selected) || state.seen;
  if (!group) return;
  for (const plot of PLOTS) {
    const source = plot.from ? plot.from(group) : group;
    const all = state.long.get(source.path) || state.recent.get(source.path) || [];
    const end = state.byPath.has(group.path) ? state.clock : all.length ? all[all.length - 1][0] : state.clock;
    const begin = end - state.span;
    const first = all.findIndex(([when]) => when >= begin);
    const moments = first < 0 ? [] : all.slice(Math.max(0, first - 1));
    const columns = plot.series.map(([name]) => state.at[name]);
    const some = (!plot.when || plot.when(group)) && moments.some(([, row]) => columns.some((at) => !missing(row[at])));
    plot.picture.toggleAttribute("hidden", !some);
    plot.reason.hidden = some;
    plot.legend.replaceChildren();
    plot.limit.textContent = "";
    if (some) paint(plot, group, moments, columns, begin, end);
    else plot.reason.textContent = moments.length < 2 && !(plot.when && !plot.when(group)) ? "Waiting for a second moment…" : plot.why ? plot.why(group) : "Nothing known.";
  }
}

function paint(plot, group, moments, columns, begin, end) {
  const width = plot.picture.clientWidth || 320, height = 150, bottom = height - 18, head = 8;
  const cap = plot.cap ? plot.cap(group) : null;
  let top = plot.floor;
  for (const [when, row] of moments) if (when >= begin) for (const at of columns) if (!missing(row[at])) top = Math.max(top, row[at]);
  const capShown = !missing(cap) && cap > 0 && top >= cap * 0.2;
  top = capShown ? Math.max(top, cap) * 1.05 : top * 1.05;
  top = plot.most && top > plot.most ? plot.most : nice(top, plot.binary);
  const x = (when) => ((when - begin) / (end - begin)) * width;
  const y = (value) => bottom - (value / top) * (bottom - head);
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    parts.push(draw("line", { class: "grid", x1: 0, x2: width, y1: y(top * part), y2: y(top * part) }));
  }
  const gap = 3.5 * Math.max(state.interval, 1, state.span > 600 ? state.keeps / 1440 : 0);
  const newest = moments[moments.length - 1];
  let chosen = newest;
  if (state.hover) {
    const at = begin + state.hover.share * (end - begin);
    chosen = moments.reduce((best, one) => (Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best), newest);
  }
  const spoken = [];
  columns.forEach((at, nth) => {
    let path = "", area = "", open = null, before = -Infinity;
    const close = () => { if (open !== null) area += `L${x(before).toFixed(1)},${bottom}L${open},${bottom}Z`; open = null; };
    for (const [when, row] of moments) {
      if (missing(row[at])) { close(); before = -Infinity; continue; }
      const point = `${x(when).toFixed(1)},${y(Math.min(row[at], top)).toFixed(1)}`;
      if (when - before > gap) { close(); path += `M${point}`; area += `M${point}`; open = x(when).toFixed(1); }
      else { path += `L${point}`; area += `L${point}`; }
      before = when;
    }
    close();
    if (nth === 0) parts.push(draw("path", { class: `area f${nth + 1}`, d: area }));
    parts.push(draw("path", { class: `line s${nth + 1}`, d: path }));
    const value = plot.format(chosen[1][at]);
    const label = plot.series[nth][1];
    spoken.push(`${label} ${value}`);
    plot.legend.append(make("span", {}, make("i", { class: `c${nth + 1}` }), `${label} `, make("b", {}, value)));
  });
  if (!missing(cap) && cap > 0) {
    const what = group.kind === "root" ? "installed" : "limit";
    plot.limit.textContent = `${what} ${plot.format(cap)}`;
    if (capShown) parts.push(draw("line", { class: "cap", x1: 0, x2: width, y1: y(cap), y2: y(cap) }));
  }
  if (state.hover) parts.push(draw("line", { class: "at", x1: x(chosen[0]), x2: x(chosen[0]), y1: head, y2: bottom }));
  parts.push(draw("text", { x: 2, y: y(top) + 11 }, plot.format(top)), draw("text", { x: 2, y: y(top / 2) - 3 }, plot.format(top / 2)));
  if (state.hover) {
    const at = Math.min(width - 36, Math.max(36, x(chosen[0])));
    parts.push(draw("text", { x: at, y: height - 3, "text-anchor": "middle" }, `${age(Math.max(0, end - chosen[0]), false)} ago`));
  } else {
    parts.push(draw("text", { x: 0, y: height - 3 }, `${age(state.span)} ago`), draw("text", { x: width, y: height - 3, "text-anchor": "end" }, "now"));
  }
  plot.picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  plot.picture.setAttribute("aria-label", `${plot.title} of ${titleOf(group)}: ${spoken.join(", ")}${plot.limit.textContent ? `; ${plot.limit.textContent}` : ""}`);
  plot.picture.replaceChildren(...parts);
}

// ---- the tree

function here(group) {
  return !state.docker || group.runtime === "docker" || group.kind === "root";
}

function matches(group) {
  if (!state.query) return true;
  const text = [group.path, group.name, group.container, group.pod, group.namespace, group.image].join("\n").toLowerCase();
  return state.query.split(/\s+/).every((word) => text.includes(word));
}

function hrefOf(path) {
  return `${root}/containers${path === "/" ? "/" : path.split("/").map(address).join("/")}`;
}

function branch(group, children = []) {
  const link = make("a", { href: hrefOf(group.path), "data-path": group.path, title: group.path }, make("span", { class: "label" }, titleOf(group)), make("span", { class: "cpu" }));
  const item = make("li", {}, link);
  if (children.length) item.append(make("ul", {}, ...children));
  return item;
}

function byTitle(one, other) {
  return titleOf(one).localeCompare(titleOf(other)) || one.path.localeCompare(other.path);
}

function tree() {
  const shown = state.groups.filter((group) => here(group) && matches(group));
  const chosen = new Set(shown.map((group) => group.path));
  const parts = [make("ul", {}, ...state.groups.filter((group) => group.kind === "root").map((group) => branch(group)))];
  const spaces = new Map();
  for (const group of state.groups) {
    if (!group.pod || !here(group)) continue;
    const key = `${group.namespace}\n${group.pod}`;
    if (!spaces.has(key)) spaces.set(key, { own: null, inside: [] });
    if (group.kind === "pod") spaces.get(key).own = group;
    else if (group.kind !== "sandbox") spaces.get(key).inside.push(group); // nobody looks at a pause
  }
  const pods = [];
  let space = null;
  for (const key of [...spaces.keys()].sort()) {
    const { own, inside } = spaces.get(key);
    const wanted = inside.filter((group) => chosen.has(group.path)).sort(byTitle);
    if (!wanted.length && !(own && chosen.has(own.path))) continue;
    const name = key.split("\n")[0];
    if (name !== space) pods.push(make("li", { class: "space" }, name || "no namespace"));
    space = name;
    if (own) pods.push(branch(own, wanted.map((group) => branch(group))));
    else pods.push(make("li", {}, make("span", { class: "bare" }, key.split("\n")[1]), make("ul", {}, ...wanted.map((group) => branch(group)))));
  }
  const lone = shown.filter((group) => !group.pod && (group.kind === "container" || group.kind === "sandbox")).sort(byTitle);
  const rest = shown.filter((group) => !group.pod && !["container", "sandbox", "root"].includes(group.kind)).sort((a, b) => a.path.localeCompare(b.path));
  for (const [title, items] of [["Pods", pods], ["Containers", lone.map((group) => branch(group))], ["Slices and services", rest.map((group) => branch(group))]]) {
    if (items.length) parts.push(make("h3", {}, title), make("ul", {}, ...items));
  }
  $("tree").replaceChildren(...parts);
  $("count").textContent = `${state.groups.filter((group) => group.kind === "container" && here(group)).length}`;
  mark();
}

function mark() {
  for (const link of $("tree").querySelectorAll("a")) {
    if (link.dataset.path === state.selected) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function treeValues() {
  for (const link of $("tree").querySelectorAll("a")) link.lastChild.textContent = cores(now(link.dataset.path, "cpu"));
}

// ---- the table

const COLUMNS = [
  { key: "name", title: "Container", words: true, value: (g) => `${placeOf(g)} ${titleOf(g)}`.toLowerCase() },
  { key: "cpu", title: "CPU", format: cores, limit: (g) => g.cpu_limit, spark: true },
  { key: "working_set", title: "Memory", format: bytes, limit: (g) => g.memory_limit },
  { key: "rx", title: "Received", format: speed, from: networkOf },
  { key: "tx", title: "Sent", format: speed, from: networkOf },
  { key: "read", title: "Read", format: speed },
  { key: "write", title: "Written", format: speed },
  { key: "throttled", title: "Throttled", format: share, hot: (v) => v >= 0.25 },
  { key: "cpu_some", title: "CPU wait", format: share, hot: (v) => v >= 0.25 },
  { key: "memory_some", title: "Memory wait", format: share, hot: (v) => v >= 0.1 },
  { key: "io_some", title: "Disk wait", format: share, hot: (v) => v >= 0.25 },
  { key: "pids", title: "Tasks", format: count },
  { key: "oom_kills", title: "OOM kills", format: count, hot: (v) => v > 0 },
];
const lines = new Map(); // path -> its <tr>

function valueOf(column, group) {
  if (column.value) return column.value(group);
  if (column.key === "throttled" && missing(group.cpu_limit)) return null;
  return now((column.from ? column.from(group) : group).path, column.key);
}

function headings() {
  for (const column of COLUMNS) {
    const button = make("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      const same = state.sort.key === column.key;
      state.sort = { key: column.key, down: same ? !state.sort.down : !column.words };
      table(true);
    });
    $("table").tHead.rows[0].append(make("th", { scope: "col", "data-key": column.key }, button));
  }
}

function tableGroups() {
  const top = state.byPath.get(state.selected);
  const whole = !top || top.kind === "root" || top.kind === "container" || top.kind === "sandbox";
  const inside = state.groups.filter((group) => group.kind === "container" && here(group) && matches(group) && (whole || group.path.startsWith(`${top.path}/`)));
  const column = COLUMNS.find((one) => one.key === state.sort.key);
  const keyed = inside.map((group) => [valueOf(column, group), group]);
  keyed.sort(([one, first], [other, second]) => {
    if (missing(one) || missing(other)) return missing(one) - missing(other) || byTitle(first, second);
    const order = column.words ? one.localeCompare(other) : one - other;
    return (state.sort.down ? -order : order) || byTitle(first, second);
  });
  return keyed.map(([, group]) => group);
}

function table(again = false) {
  const wanted = tableGroups();
  const body = $("table").tBodies[0];
  for (const head of $("table").tHead.rows[0].cells) {
    if (head.dataset.key === state.sort.key) head.setAttribute("aria-sort", state.sort.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const top = wanted.slice(0, ROWS);
  const order = top.map((group) => group.path);
  for (const path of [...lines.keys()]) if (!order.includes(path)) { lines.get(path).remove(); lines.delete(path); }
  const settled = !again && body.matches(":hover, :focus-within"); // rows do not jump away from under a pointer
  for (const group of top) fill(group);
  const shown = [...body.rows].map((line) => line.dataset.path);
  if (!settled || shown.length !== order.length) {
    if (shown.join("\n") !== order.join("\n")) body.append(...order.map((path) => lines.get(path)));
  }
  $("few").hidden = wanted.length <= ROWS;
  $("few").textContent = `The first ${ROWS} of ${wanted.length}; search to see others.`;
  $("none").hidden = wanted.length > 0;
  $("none").textContent = state.query ? `No container matches “${state.query}”.` : "No container here.";
}

function fill(group) {
  let line = lines.get(group.path);
  if (!line) {
    const name = make("td", {}, make("a", { href: hrefOf(group.path), "data-path": group.path, title: group.path }, titleOf(group), make("small", {}, placeOf(group))));
    line = make("tr", { "data-path": group.path }, name, ...COLUMNS.slice(1).map(() => make("td")));
    lines.set(group.path, line);
  }
  line.classList.toggle("chosen", group.path === state.selected);
  COLUMNS.slice(1).forEach((column, nth) => {
    const cell = line.cells[nth + 1];
    const value = valueOf(column, group);
    const text = make("span", column.hot && !missing(value) && column.hot(value) ? { class: "hot" } : {}, column.format(value));
    const limit = column.limit ? column.limit(group) : null;
    const parts = column.spark ? [spark(group.path, column.key, limit), text] : [text];
    if (!missing(limit)) {
      parts.push(make("span", { class: "of" }, ` / ${column.format(limit)}`));
      const used = (value || 0) / limit;
      const bar = make("progress", { max: "1", "aria-label": `${column.title}: share of the limit`, ...(used > 0.9 ? { class: "hot" } : {}) });
      bar.value = Math.min(1, used);
      parts.push(bar);
    }
    cell.replaceChildren(...parts);
  });
}

function spark(path, name, limit) {
  const values = (state.recent.get(path) || []).map(([, row]) => row[state.at[name]]);
  const known = values.filter((value) => !missing(value));
  const top = Math.max(0.01, ...known, missing(limit) || Math.max(0, ...known) < limit * 0.2 ? 0 : limit);
  const points = values.map((value, at) => (missing(value) ? null : `${((at / Math.max(1, values.length - 1)) * 70 + 1).toFixed(1)},${(18 - (value / top) * 16).toFixed(1)}`));
  const picture = draw("svg", { viewBox: "0 0 72 20", "aria-hidden": "true" });
  picture.append(draw("polyline", { class: "line s1", points: points.filter((point) => point !== null).join(" ") }));
  return picture;
}

// ---- the head of the page

// What stays the same stays in the page, so that it can be selected and copied.
const drawn = new Map();
function changed(name, value) {
  const text = JSON.stringify(value);
  if (drawn.get(name) === text) return false;
  drawn.set(name, text);
  return true;
}

function facts() {
  const machine = state.machine;
  const group = state.byPath.get(state.selected) || state.seen;
  const up = machine.booted ? ` · up ${age(state.clock - machine.booted)}` : "";
  $("machine").textContent = `${machine.system || "Linux"} · ${machine.kernel} · ${machine.cores} cores · ${bytes(machine.memory)}${up}`;
  $("gone").hidden = state.byPath.has(state.selected) || !state.seen;
  if (!group) return;
  const place = group.kind === "root" ? "" : group.pod ? `${group.namespace}${group.kind === "pod" ? "" : ` / ${group.pod}`}` : group.kind;
  $("where").textContent = place;
  $("name").textContent = titleOf(group);
  document.title = `${titleOf(group)} · wherry-metrics`;
  const kills = now(group.path, "oom_kills");
  const pids = now(group.path, "pids");
  const swap = now(group.path, "swap");
  const found = [
    ["Image", group.kind === "pod" ? "" : group.image], ["Runtime", group.kind === "root" ? machine.runtime : group.runtime], ["Name", group.container && group.name !== group.id ? group.name : ""],
    ["Running for", group.started && group.kind !== "root" ? age(state.clock - group.started) : ""], ["Tasks", missing(pids) ? "" : `${count(pids)}${group.pids_limit ? ` of ${count(group.pids_limit)}` : ""}`],
    ["Load", group.kind === "root" ? state.load.map((one) => one.toFixed(2)).join(" ") : ""], ["CPU shares", group.cpu_shares && group.kind !== "root" ? count(group.cpu_shares) : ""], ["Swap", swap ? bytes(swap) : ""],
    ["Network", group.interfaces.length > 4 ? `${group.interfaces.length} interfaces` : group.interfaces.join(", ")], ["OOM kills", kills ? count(kills) : "", "hot"], ["Cgroup", group.path],
  ];
  const told = found.filter(([, value]) => value);
  if (changed("facts", told)) $("facts").replaceChildren(...told.map(([name, value, kind]) => make("div", {}, make("dt", {}, name), make("dd", { title: value, class: kind || "" }, value))));
  $("disks").hidden = group.kind !== "root" || !state.systems.length;
  if (changed("systems", state.systems)) $("systems").replaceChildren(...state.systems.map(([device, mounted, used, total]) => {
    const bar = make("progress", { max: "1", "aria-label": `${mounted || device}: used`, ...(used > 0.9 * total ? { class: "hot" } : {}) });
    bar.value = total ? used / total : 0;
    return make("div", {}, make("p", {}, make("span", {}, mounted || device), make("span", { class: "quiet" }, `${bytes(used)} of ${bytes(total)}`)), bar);
  }));
}

function spans() {
  const offered = [60, 120, 600, 3600, 21600, 86400].filter((size) => size <= Math.max(120, state.keeps));
  if ($("spans").childElementCount !== offered.length) {
    $("spans").replaceChildren(...offered.map((size) => {
      const button = make("button", { type: "button", "data-span": size, "aria-pressed": String(size === state.span) }, age(size));
      button.addEventListener("click", () => { state.span = size; spans(); plots(); });
      return button;
    }));
  }
  for (const button of $("spans").children) button.setAttribute("aria-pressed", String(Number(button.dataset.span) === state.span));
}

function say(text, kind) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").className = `state ${kind}`;
}

function everything() {
  const group = state.byPath.get(state.selected);
  if (group) state.seen = group;
  facts(); spans(); plots(); treeValues(); table();
}

// ---- where one is

function arrive() {
  let rest = location.pathname.slice(root.length);
  try { rest = decodeURIComponent(rest); } catch { /* not a path of ours; as it is */ }
  state.docker = rest.startsWith("/docker");
  const name = rest.replace(/^\/(containers|docker)/, "").replace(/\/$/, "") || "/";
  const known = state.docker && name !== "/" ? state.groups.find((group) => group.runtime === "docker" && (`/${group.name}` === name || (name.length > 8 && `/${group.id}`.startsWith(name)))) : null;
  state.selected = known ? known.path : name === "/" || state.docker ? rootPath() : name;
  state.seen = state.byPath.get(state.selected) || (state.docker || name === "/" ? null : { path: name, kind: "service", name, container: "", pod: "", namespace: "", image: "", interfaces: [], runtime: "" });
}

async function go(path, push) {
  if (push) history.pushState(null, "", hrefOf(path));
  arrive();
  tree();
  everything();
  await look();
  everything();
}

async function poll() {
  const began = performance.now();
  try {
    const answer = await fetch(`${root}/page/now?since=${state.last}&groups=${state.tag}`, { signal: AbortSignal.timeout(15000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const first = state.tag === "", had = state.tag;
    const found = await answer.json();
    put(found);
    if (first) arrive();
    if (had !== state.tag) tree();
    if (first || !state.long.has(state.selected)) await look();
    everything();
    say(found.failed ? "Not all could be read" : `Live, every ${digits(state.interval)} s`, found.failed ? "bad" : "live");
  } catch (error) {
    say(`No answer (${error.message}); trying again`, "bad");
  }
  setTimeout(next, Math.max(1000 * state.interval, 4 * (performance.now() - began)));
}

function next() {
  if (state.paused || document.hidden) { state.waiting = true; return; }
  state.waiting = false;
  poll();
}

function wake() {
  if (state.waiting) next();
}

// ---- switches

function theme(choice) {
  const words = { auto: ["Auto", "as the system has them"], light: ["Light", "light"], dark: ["Dark", "dark"] };
  if (choice === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  $("theme").textContent = words[choice][0];
  $("theme").setAttribute("aria-label", `Colours: ${words[choice][1]}`);
  try { localStorage.setItem("theme", choice); } catch { /* a browser that keeps nothing */ }
}

function begin() {
  let chosen = "auto";
  try { chosen = localStorage.getItem("theme") || "auto"; } catch { /* likewise */ }
  theme(["auto", "light", "dark"].includes(chosen) ? chosen : "auto");
  $("theme").addEventListener("click", () => theme({ auto: "dark", dark: "light", light: "auto" }[document.documentElement.dataset.theme || "auto"]));
  $("pause").addEventListener("click", () => {
    state.paused = !state.paused;
    $("pause").setAttribute("aria-pressed", String(state.paused));
    if (state.paused) say("Paused", "");
    wake();
  });
  $("search").addEventListener("input", () => { state.query = $("search").value.trim().toLowerCase(); tree(); treeValues(); table(true); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !["INPUT", "TEXTAREA"].includes(document.activeElement.tagName)) { event.preventDefault(); $("groups").open = true; $("search").focus(); }
    if (event.key === "Escape" && document.activeElement === $("search")) { $("search").value = ""; $("search").dispatchEvent(new Event("input")); }
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-path]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(link.dataset.path, true);
    if (matchMedia("(max-width: 820px)").matches) { $("groups").open = false; $("main").scrollIntoView(); }
  });
  window.addEventListener("popstate", () => go(null, false));
  document.addEventListener("visibilitychange", wake);
  new ResizeObserver(() => plots()).observe($("plots"));
  if (matchMedia("(max-width: 820px)").matches) $("groups").open = false;
  $("plots").append(...PLOTS.map(plotCard));
  headings();
  poll();
}

begin();
