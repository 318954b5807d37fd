"use strict";
// Prompts of one object on one image: sent after each click, answered with the outlines of both masks. Names are only ever put as text.
const byId = (id) => document.getElementById(id);
const NEAR = 4; // pixels of the screen: less is a click, more a box
let listing = { sources: [] }, at = null, size = null, prompts = [], masks = {}, routing = "", ready = false;
let dragged = null, cross = null, corner = null, shownItems = [], busy = false, again = false, turn = 0;

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

async function ask(name, body) {
  let answer;
  try {
    answer = await fetch(name, body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch {
    throw new Error("casam view does not answer: has it ended?");
  }
  const found = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

const problem = (text) => { byId("problem").textContent = text; };
const say = (text) => { byId("shown").textContent = text; };
const place = () => ({ source: at.source, place: at.place });

// The prompt: points, and the last box.

function asked() {
  const box = prompts.filter((one) => one.box).pop();
  return { ...place(), points: prompts.filter((one) => one.point).map((one) => one.point), box: box ? box.box : null };
}

async function predict() {
  if (busy) { again = true; return; }
  busy = true;
  const mine = turn;
  const began = performance.now();
  try {
    if (!prompts.length) {
      masks = {};
      routing = "";
      say("");
    } else {
      const found = await ask("predict", asked());
      if (mine === turn) {
        ({ masks, routing } = found);
        say(`answered in ${Math.round(performance.now() - began)} ms`);
      }
    }
    if (mine === turn) problem("");
  } catch (error) {
    if (mine === turn) {
      masks = {};
      problem(error.message);
    }
  }
  busy = false;
  draw();
  if (again) { again = false; predict(); }
}

function add(prompt) {
  if (!ready) return;
  prompts.push(prompt);
  draw();
  predict();
}

function undo() {
  if (corner) { corner = null; draw(); return; }
  if (!prompts.length) return;
  prompts.pop();
  draw();
  predict();
}

function clear() {
  prompts = [];
  corner = null;
  draw();
  predict();
}

// What is drawn.

function draw() {
  const picture = byId("picture"), image = picture.querySelector("image");
  picture.replaceChildren(...(image ? [image] : []));
  if (!size) return;
  const order = ["fitted", "frozen"].filter((whose) => masks[whose] && masks[whose].outline && byId(`show-${whose}`).checked);
  for (const kind of ["halo", "line"]) {
    for (const whose of order) {
      picture.append(svg("path", { d: masks[whose].outline, class: `${whose} ${kind}${byId("whose").value === whose ? " chosen" : ""}` }));
    }
  }
  const radius = Math.max(size.width, size.height) / 110, box = prompts.filter((one) => one.box).pop();
  // A pixel's index is its place, and its middle is half a pixel further.
  if (box) picture.append(rectangle(box.box));
  for (const one of prompts.filter((other) => other.point)) {
    const [x, y, label] = one.point;
    picture.append(svg("circle", { cx: x + 0.5, cy: y + 0.5, r: radius, class: label ? "prompt point" : "excludes" }));
  }
  if (dragged && dragged.moved) picture.append(rectangle(between(dragged.from, dragged.to)));
  if (cross) {
    const arm = 3 * radius, [x, y] = [cross[0] + 0.5, cross[1] + 0.5];
    picture.append(svg("path", { d: `M${x - arm} ${y}h${2 * arm}M${x} ${y - arm}v${2 * arm}`, class: "cross" }));
    if (corner) picture.append(rectangle(between(corner, cross)));
  }
  const told = Object.entries(masks).map(([whose, mask]) => {
    const share = (100 * mask.area) / (size.width * size.height);
    return [`${whose}: ${mask.by}`, mask.area ? `${mask.area.toLocaleString("en")} pixels, ${share.toFixed(1)} % of the image; expected IoU ${(100 * mask.score).toFixed(1)}` : "an empty mask"];
  });
  if (routing) told.push(["router", routing]);
  byId("told").replaceChildren(...told.map(([name, value]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    row.append(term, text);
    return row;
  }));
  for (const id of ["undo", "clear"]) byId(id).disabled = !prompts.length;
  byId("keep").disabled = !masks[byId("whose").value];
}

function rectangle([x0, y0, x1, y1]) {
  return svg("rect", { x: x0, y: y0, width: x1 - x0 + 1, height: y1 - y0 + 1, class: "prompt" });
}

const between = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
const inside = (value, count) => Math.min(Math.max(value, 0), count - 1);

function spot(event) {
  const matrix = byId("picture").getScreenCTM().inverse();
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  const round = (value) => Math.round(10 * (value - 0.5)) / 10;
  return [inside(round(point.x), size.width), inside(round(point.y), size.height)];
}

// Which image.

async function open(source, number) {
  turn += 1;
  at = { source, place: number };
  [ready, size, prompts, masks, routing, corner, cross, dragged] = [false, null, [], {}, "", null, null, null];
  const mine = turn, own = listing.sources[source];
  byId("picture").replaceChildren();
  byId("told").replaceChildren();
  byId("title").textContent = own.ids[number];
  problem("");
  say("opening …");
  neighbours();
  try {
    const found = await ask("open", place());
    if (mine !== turn) return;
    size = found;
    ready = true;
    cross = [Math.floor(size.width / 2), Math.floor(size.height / 2)];
    byId("picture").setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    const image = svg("image", { href: `image/${source}/${number}`, width: size.width, height: size.height, preserveAspectRatio: "none" });
    image.addEventListener("error", () => mine === turn && noImage(source, number));
    byId("picture").append(image);
    kept(found.kept);
    say("");
  } catch (error) {
    if (mine !== turn) return;
    say("");
    problem(error.message);
  }
  draw();
}

function neighbours() {
  const position = shownItems.indexOf(at.place);
  byId("item").value = String(at.place);
  byId("previous").disabled = position <= 0;
  byId("next").disabled = position < 0 || position === shownItems.length - 1;
}

async function noImage(source, number) {
  // The same address again, for what it says.
  try {
    await ask(`image/${source}/${number}`);
  } catch (error) {
    problem(`outlines are shown alone: ${error.message}`);
  }
}

function kept(count) {
  byId("title").textContent = `${size.file}, ${size.width} × ${size.height} pixels${count ? `, ${count} ${count === 1 ? "mask" : "masks"} kept` : ""}`;
  byId("drop").disabled = !count;
}

function items(opening) {
  const source = Number(byId("source").value), words = byId("search").value.trim().toLowerCase();
  const ids = listing.sources[source].ids;
  shownItems = ids.map((_, number) => number).filter((number) => !words || ids[number].toLowerCase().includes(words));
  byId("item").replaceChildren(...shownItems.map((number) => option(String(number), ids[number])));
  if (!shownItems.length) { problem(`no image of that name among ${ids.length}`); return; }
  if (opening || !shownItems.includes(at.place)) open(source, shownItems[0]);
  else neighbours();
}

function step(by) {
  const position = at ? shownItems.indexOf(at.place) + by : -1;
  if (position >= 0 && position < shownItems.length) open(at.source, shownItems[position]);
}

async function change(name, body, told) {
  const mine = turn;
  try {
    const found = await ask(name, body);
    if (mine !== turn) return;
    problem("");
    kept(found.kept);
    say(`${told} ${found.file}`);
  } catch (error) {
    if (mine === turn) problem(error.message);
  }
}

function keep() {
  const whose = byId("whose").value;
  if (ready && masks[whose]) change("keep", { ...asked(), whose, name: byId("name").value }, "kept:");
}

function press(id) {
  byId(id).setAttribute("aria-pressed", byId(id).getAttribute("aria-pressed") !== "true");
}

// Mouse, touch and keys.

function pointers() {
  const picture = byId("picture");
  picture.addEventListener("contextmenu", (event) => event.preventDefault());
  picture.addEventListener("pointerdown", (event) => {
    if (!ready || !event.isPrimary || event.button === 1) return;
    picture.setPointerCapture(event.pointerId);
    const from = spot(event);
    dragged = { from, to: from, x: event.clientX, y: event.clientY, moved: false, right: event.button === 2 };
  });
  picture.addEventListener("pointermove", (event) => {
    if (!dragged || !event.isPrimary) return;
    dragged.to = spot(event);
    dragged.moved ||= !dragged.right && Math.hypot(event.clientX - dragged.x, event.clientY - dragged.y) > NEAR;
    if (dragged.moved) draw();
  });
  picture.addEventListener("pointercancel", () => { dragged = null; draw(); });
  picture.addEventListener("pointerup", (event) => {
    if (!dragged || !event.isPrimary) return;
    const done = dragged, exclude = done.right || byId("exclude").getAttribute("aria-pressed") === "true";
    dragged = null;
    if (!done.moved) { add({ point: [...done.from, exclude ? 0 : 1] }); return; }
    const box = between(done.from, spot(event));
    if (box[0] < box[2] && box[1] < box[3]) add({ box });
    else draw();
  });
}

function keyOnStage(event) {
  if (!ready) return false;
  const far = event.shiftKey ? 10 : 1;
  const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
  const move = moves[event.key], key = event.key.toLowerCase();
  if (move) {
    cross = [inside(cross[0] + move[0], size.width), inside(cross[1] + move[1], size.height)];
    draw();
  } else if (key === "enter") add({ point: [...cross, byId("exclude").getAttribute("aria-pressed") === "true" ? 0 : 1] });
  else if (key === "x") add({ point: [...cross, 0] });
  else if (key === "b" && !corner) { corner = [...cross]; draw(); }
  else if (key === "b") {
    const box = between(corner, cross);
    corner = null;
    if (box[0] < box[2] && box[1] < box[3]) add({ box });
    else draw();
  } else return false;
  return true;
}

function keys(event) {
  const typing = event.target.closest("input:not([type=checkbox]), select");
  if (typing || event.altKey || event.metaKey) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey) {
    if (key !== "z") return;
    undo();
  } else if (!(event.target.closest("#stage") && keyOnStage(event))) {
    const acts = { u: undo, c: clear, k: keep, n: () => step(1), p: () => step(-1), f: () => byId("show-frozen").click(), g: () => listing.run && byId("show-fitted").click() };
    if (!acts[key]) return;
    acts[key]();
  }
  event.preventDefault();
}

async function start() {
  try {
    listing = await ask("items");
  } catch (error) {
    problem(error.message);
    return;
  }
  byId("about").textContent = [listing.run ? `${listing.run} beside the frozen SAM` : "the frozen SAM", `masks are kept in ${listing.out}`, listing.stand_in].filter(Boolean).join("; ");
  byId("source").replaceChildren(...listing.sources.map((source, number) => option(String(number), `${source.name} (${source.ids.length})`)));
  byId("whose").replaceChildren(...(listing.run ? [option("fitted", "fitted")] : []), option("frozen", "frozen"));
  byId("fitted-label").hidden = !listing.run;
  byId("choose").addEventListener("submit", (event) => event.preventDefault());
  byId("source").addEventListener("change", () => items(true));
  byId("search").addEventListener("change", () => items(false));
  byId("item").addEventListener("change", () => open(Number(byId("source").value), Number(byId("item").value)));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("exclude").addEventListener("click", () => press("exclude"));
  for (const [id, act] of [["undo", undo], ["clear", clear], ["keep", keep], ["drop", () => change("drop", place(), "removed:")]]) byId(id).addEventListener("click", act);
  for (const id of ["whose", "show-frozen", "show-fitted"]) byId(id).addEventListener("change", draw);
  document.addEventListener("keydown", keys);
  pointers();
  items(true);
}

start();
