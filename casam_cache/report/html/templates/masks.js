"use strict";
// Every test mask: rows of scores come with the page, outlines when they are scrolled to. Text is only ever put as text.
const fits = [], rows = [], outlines = new Map(), waiting = new Map();
let chunk = 1, shown = [], drawn = 0, at = -1, opener = null;
const STEP = 60;
const byId = (id) => document.getElementById(id);

function casamData(kind, key, value) {
  if (kind === "fits") {
    chunk = key;
    fits.push(...value.map((fit) => ({ ...fit, rows: 0 })));
  } else if (kind === "rows") {
    for (const v of value) {
      const place = fits[key].rows++;
      rows.push({
        fit: key, place, id: v[0], file: v[1], group: v[2], cls: v[3], instance: v[4], area: v[5], width: v[6],
        height: v[7], scale: v[8], image: v[9], thumb: v[10], crop: v[11], prompt: v[12], scores: v[13], estimates: v[14],
        frozen: v[13][0][0], fitted: v[13][0][1],
      });
    }
  } else if (kind === "outlines") {
    outlines.set(key, value);
    for (const done of waiting.get(key) || []) done();
    waiting.delete(key);
  }
}

function withOutlines(row, done) {
  const key = `${row.fit}-${Math.floor(row.place / chunk)}`;
  if (outlines.has(key)) return done(outlines.get(key)[row.place % chunk]);
  if (!waiting.has(key)) {
    waiting.set(key, []);
    const script = document.createElement("script");
    script.src = `masks/outlines-${key}.js`;
    document.head.append(script);
  }
  waiting.get(key).push(() => done(outlines.get(key)[row.place % chunk]));
  return undefined;
}

const path = (kind, number) => `masks/${kind}/${Math.floor(number / 1000)}/${number}.jpg`;
const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1));
const gain = (row) => (row.frozen === null || row.fitted === null ? null : row.fitted - row.frozen);
const signed = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`);

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function element(name, attributes, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

function drawOutlines(into, found) {
  // The dashes of the frozen SAM come last: where the fit changed nothing, both are seen.
  const order = [["truth", found[0]], ["fitted", found[2]], ["frozen", found[1]]].filter((pair) => pair[1]);
  for (const kind of ["halo", "line"]) {
    for (const [whose, d] of order) into.append(svg("path", { d, class: `${whose} ${kind}` }));
  }
}

function drawPrompt(into, row) {
  const p = row.prompt.map((value) => value * row.scale);
  if (p.length === 4) {
    // Boxes name pixels, which end one further.
    into.append(svg("rect", { x: p[0], y: p[1], width: p[2] - p[0] + row.scale, height: p[3] - p[1] + row.scale, class: "prompt" }));
  } else if (p.length === 2) {
    into.append(svg("circle", { cx: p[0] + row.scale / 2, cy: p[1] + row.scale / 2, r: 4, class: "prompt point" }));
  }
}

function tile(row, place) {
  const fit = fits[row.fit];
  const frame = element("span", { class: "frame" });
  if (row.thumb >= 0) {
    frame.append(element("img", { src: path("thumbs", row.thumb), alt: "", loading: "lazy", decoding: "async", width: 168, height: 168 }));
  }
  const over = svg("svg", { viewBox: `${row.crop[0]} ${row.crop[1]} ${row.crop[2]} ${row.crop[2]}`, "aria-hidden": "true" });
  withOutlines(row, (found) => drawOutlines(over, found));
  frame.append(over);
  const change = gain(row);
  const made = element("button", { type: "button", class: "tile" }, frame,
    element("span", { class: "name" }, row.id),
    element("span", { class: "told" }, `${percent(row.frozen)} → ${percent(row.fitted)} `,
      element("b", { class: change > 0.0005 ? "up" : change < -0.0005 ? "down" : "" }, signed(change))));
  if (fits.length > 1) made.append(element("span", { class: "of" }, `${fit.task}, ${fit.method}`));
  made.setAttribute("aria-label", `${row.id}, class ${row.cls}, ${fit.task}, ${fit.method}: IoU ${percent(row.frozen)} frozen, ${percent(row.fitted)} fitted`);
  made.addEventListener("click", () => open(place, made));
  return made;
}

const ORDERS = {
  worst: (row) => row.fitted, best: (row) => (row.fitted === null ? null : -row.fitted),
  gain: (row) => (gain(row) === null ? null : -gain(row)), loss: gain, small: (row) => row.area, large: (row) => -row.area,
};

function update() {
  const limit = (id, fallback) => (byId(id).value === "" ? fallback : Number(byId(id).value));
  const low = limit("low", 0) / 100, high = limit("high", 100) / 100;
  const least = limit("least", 0), most = limit("most", Infinity);
  const asked = byId("search").value.trim().toLowerCase(), order = byId("order").value;
  const whole = low <= 0 && high >= 1;
  shown = rows.filter((row) => {
    const fit = fits[row.fit];
    return (!byId("bench").value || byId("bench").value === source(fit))
      && (!byId("task").value || byId("task").value === fit.task)
      && (!byId("method").value || byId("method").value === fit.method)
      && (!byId("scored").value || byId("scored").value === scored(fit))
      && (whole || (row.fitted !== null && row.fitted >= low - 5e-5 && row.fitted <= high + 5e-5))
      && row.area >= least && row.area <= most
      && (!asked || `${row.id}\n${row.file}\n${row.group}`.toLowerCase().includes(asked));
  });
  const key = ORDERS[order];
  if (key) {
    const keyed = shown.map((row) => [key(row), row]);
    keyed.sort((a, b) => (a[0] === null) - (b[0] === null) || a[0] - b[0]);
    shown = keyed.map((pair) => pair[1]);
  } else {
    shown.sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
  }
  byId("shown").textContent = `${shown.length} of ${rows.length} masks`;
  drawn = 0;
  byId("grid").replaceChildren();
  more();
}

function more() {
  const next = shown.slice(drawn, drawn + STEP).map((row, index) => tile(row, drawn + index));
  drawn += next.length;
  byId("grid").append(...next);
}

const source = (fit) => fit.from || "casam fit";
const scored = (fit) => `${fit.split}, ${fit.prompt}`;

function open(place, from) {
  at = place;
  opener = from || opener;
  const row = shown[at], fit = fits[row.fit];
  const width = row.width * row.scale, height = row.height * row.scale;
  const zoomed = byId("zoom").getAttribute("aria-pressed") === "true";
  const [x, y, side] = row.crop;
  const box = zoomed ? `${x} ${y} ${side} ${side}` : `0 0 ${width} ${height}`;
  const picture = svg("svg", { viewBox: box, role: "img", "aria-label": `${row.id} with its outlines` });
  if (row.image >= 0) picture.append(svg("image", { href: path("images", row.image), width, height, preserveAspectRatio: "none" }));
  withOutlines(row, (found) => { drawOutlines(picture, found); drawPrompt(picture, row); });
  byId("picture").replaceChildren(picture);
  byId("large-title").textContent = row.id;
  const told = [
    ...fit.metrics.map(([label, share], number) => {
      const [before, after] = row.scores[number];
      const show = (value) => (value === null ? "–" : share ? percent(value) : String(value));
      return [label, `frozen ${show(before)}, fitted ${show(after)}`];
    }),
    ["file", row.file], ["task", fit.task], ["method", fit.method], ["from", source(fit)], ["group", row.group], ["split", fit.split],
    ["class, instance", `${row.cls}, ${row.instance}`], ["size", `${row.area.toLocaleString("en")} of ${(row.width * row.height).toLocaleString("en")} pixels`],
    ["prompt", `${fit.prompt}: ${row.prompt.join(", ")}`],
    ["IoU that the decoder expected", `frozen ${percent(row.estimates[0])}, fitted ${percent(row.estimates[1])}`],
  ];
  byId("told").replaceChildren(...told.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  byId("previous").disabled = at === 0;
  byId("next").disabled = at === shown.length - 1;
  if (!byId("large").open) byId("large").showModal();
}

function step(by) {
  if (at + by < 0 || at + by >= shown.length) return;
  while (drawn <= at + by) more();
  open(at + by, byId("grid").children[at + by]);
}

function choices(select, values, all) {
  select.replaceChildren(element("option", { value: "" }, all), ...[...new Set(values)].map((value) => element("option", { value }, value)));
}

document.addEventListener("DOMContentLoaded", () => {
  choices(byId("bench"), fits.map(source), "all");
  byId("of-bench").hidden = byId("bench").options.length < 3;
  choices(byId("task"), fits.map((fit) => fit.task), "all");
  choices(byId("method"), fits.map((fit) => fit.method), "all");
  choices(byId("scored"), fits.map(scored), "all");
  const form = byId("filters");
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  for (const whose of ["truth", "frozen", "fitted"]) {
    byId(`show-${whose}`).addEventListener("change", (event) => document.body.classList.toggle(`hide-${whose}`, !event.target.checked));
  }
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => byId("large").close());
  byId("zoom").addEventListener("click", () => {
    byId("zoom").setAttribute("aria-pressed", byId("zoom").getAttribute("aria-pressed") !== "true");
    open(at);
  });
  byId("large").addEventListener("close", () => opener && opener.focus());
  byId("large").addEventListener("keydown", (event) => {
    const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), z: () => byId("zoom").click(),
      t: () => byId("show-truth").click(), f: () => byId("show-frozen").click(), g: () => byId("show-fitted").click() };
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && drawn < shown.length && more(), { rootMargin: "800px" }).observe(byId("more"));
  update();
});
