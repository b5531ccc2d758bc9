// Shared by all explorers. Python puts it before each module, so that one text needs no import.

const STYLE = `
.explorer { margin: 0.5rem 0; color: inherit; font-size: 0.95rem; line-height: 1.4 }
.explorer .panels { display: flex; gap: 0.4rem 1.2rem; align-items: flex-end }
.explorer .panel { margin: 0; flex: 1 1 0; max-width: 14rem }
.explorer .panel figcaption { color: inherit; font-weight: 600; margin: 0; text-align: left }
.explorer svg { display: block; touch-action: manipulation; width: 100% }
.explorer svg text { font: 600 5px sans-serif; fill: #fff; pointer-events: none }
.explorer image { image-rendering: pixelated }
@media (prefers-reduced-motion: no-preference) { .explorer .flowing rect { transition: fill-opacity 0.8s } }
.explorer [role=radio] { cursor: pointer; outline: none }
.explorer [role=radio]:focus-visible { stroke: #f0e442; stroke-width: 1.6 }
.explorer .controls { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; margin: 0.5rem 0 }
.explorer label { display: inline-flex; align-items: center; gap: 0.4rem; min-height: 2rem }
.explorer input[type=range] { width: 9rem; accent-color: #0072b2 }
.explorer select, .explorer button { font: inherit; color: inherit; background: transparent; padding: 0.15rem 0.5rem;
  border: 1px solid currentcolor; border-radius: 4px; min-height: 2rem }
.explorer select option { color: #000; background: #fff }
.explorer output { font-variant-numeric: tabular-nums; min-width: 3ch; display: inline-block }
.explorer .bars { border-collapse: collapse; margin: 0.6rem 0; width: 100%; max-width: 30rem }
.explorer .bars th, .explorer .bars td { padding: 0 0.8rem 0.1rem 0; text-align: left; background: none; border: 0;
  font-weight: 400 }
.explorer .bars tr > :first-child { width: 1%; white-space: nowrap }
.explorer .bars thead th, .explorer .bars [aria-current] > * { font-weight: 600 }
.explorer .bars td { font-variant-numeric: tabular-nums; width: 50% }
.explorer .bars td div { height: 0.35rem; background: #0072b2 }
.explorer .ranked { display: flex; gap: 0.2rem }
.explorer .ranked > * { flex: 1 1 0; max-width: 3.2rem; min-width: 0; text-align: center }
.explorer .ranked img { background: none !important; border: 3px solid transparent; box-sizing: border-box; display: block;
  image-rendering: pixelated; padding: 0 !important; width: 100% } /* in dark mode the book's theme pads images */
.explorer .ranked .match img { border-color: #d55e00 }
.explorer .ranked .out img { opacity: 0.35 }
.explorer .ranked [aria-checked=true] { outline: 3px solid #0072b2 }
.explorer .ranked [role=radio]:focus-visible { outline-color: #f0e442 }
.explorer .plot { max-width: 11rem }
.explorer .plot text { fill: currentcolor; font-size: 9px; font-weight: 400 }
.explorer .dragged { cursor: grab; touch-action: none }
.explorer .crops { display: grid; gap: 0.2rem; max-width: 8rem }
.explorer canvas { box-shadow: 0 0 0 1px; box-sizing: border-box; image-rendering: pixelated; width: 100% }
.explorer .numbers { border-collapse: collapse; margin: 0.5rem 0; font-variant-numeric: tabular-nums }
.explorer .numbers :is(th, td) { text-align: right; padding: 0.1rem 0.6rem }
.explorer p { margin: 0.4rem 0; max-width: 38rem }
.explorer .says { min-height: 2.8em }`;

const SVG = new Set(["svg", "rect", "image", "text", "line", "path", "circle", "g", "polyline", "title"]);

// An HTML or SVG element with attributes (functions are listeners) and children.
function make(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  set(node, attributes);
  node.append(...children);
  return node;
}

function set(node, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value);
  }
}

// Numbers in [0, 1] from fixed point, 16 bits each, little-endian, in base 64.
function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Float64Array.from(new Uint16Array(bytes.buffer), (value) => value / 65535);
}

// Numbers of single precision, little-endian, in base 64.
function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Float64Array.from(new Float32Array(bytes.buffer));
}

const times = (count, value) => Array.from({ length: count }, (_, k) => value(k));

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const percent = (value) => `${(100 * value).toFixed(1)} %`;

// A labelled slider with its value; `show` writes the value. `put` moves it from outside.
function slider(label, { min, max, step = 1, value, show = String }, changed) {
  const output = make("output", {}, show(value));
  const input = make("input", { type: "range", min, max, step, value, input: () => {
    output.value = show(+input.value);
    changed(+input.value);
  } });
  const put = (value) => { input.value = value; output.value = show(value); };
  return Object.assign(make("label", {}, label, input, output), { put });
}

// A labelled box to tick.
function tick(label, checked, changed) {
  const input = make("input", { type: "checkbox", change: () => changed(input.checked) });
  input.checked = checked;
  return make("label", {}, input, label);
}

// A labelled choice among [value, text] pairs. `put` makes it from outside.
function choice(label, options, value, changed) {
  const select = make("select", { change: () => changed(select.value) },
    ...options.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value;
  const put = (value) => { select.value = value; };
  return Object.assign(make("label", {}, label, select), { put });
}

// A choice among images, if there are several; to be spread among the controls.
function imageChoice(images, changed) {
  if (images.length === 1) return [];
  return [choice("image", images.map((_, i) => [i, i + 1]), 0, (i) => changed(+i))];
}

// An image under a grid of tokens. With `picked`, tokens are chosen by mouse, touch or arrow keys, and token 0, the
// class token, lies in a strip above (unless there is none). `paint` colours each patch by its share of the largest
// value.
function tokenGrid({ href, rows, columns, picked, label, classToken = true }) {
  const cell = 10, strip = picked && classToken ? 9 : 0, first = strip ? 0 : 1, total = rows * columns + 1;
  const place = (i) => i === 0 ? { x: 0, y: 0, width: columns * cell, height: strip - 1 }
    : { x: (i - 1) % columns * cell, y: strip + Math.floor((i - 1) / columns) * cell, width: cell, height: cell };
  const svg = make("svg", { viewBox: `-1 -1 ${columns * cell + 2} ${rows * cell + strip + 2}`,
    role: picked ? "radiogroup" : "img", "aria-label": label ?? "" });
  const image = make("image", { href, x: 0, y: strip, width: columns * cell, height: rows * cell,
    preserveAspectRatio: "none" });
  svg.append(image);
  const cells = [];
  let current = first;
  for (let i = first; i < total; i++) {
    const rect = make("rect", { ...place(i), fill: i ? "transparent" : "#555", "fill-opacity": 1 });
    if (picked) {
      set(rect, { role: "radio", "aria-label": nameOf(i, columns), "data-token": i });
      rect.addEventListener("click", () => choose(i).focus());
      // Not pointerover: a resting mouse "enters" again when frames are drawn anew, against the keyboard.
      rect.addEventListener("pointermove", (event) => event.pointerType === "mouse" && i !== current && choose(i));
    }
    cells[i] = rect;
    svg.append(rect);
  }
  const name = make("text", { x: columns * cell / 2, y: 6, "text-anchor": "middle" }, strip ? "class token" : "");
  svg.append(name);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!picked || step === undefined) return;
    event.preventDefault();
    const next = current === 0 ? (step > 0 ? 1 : 0) : current + step;
    choose(next < 1 ? first : Math.min(next, total - 1)).focus();
  });
  function mark(i) {
    set(cells[current], { "aria-checked": false, stroke: "none", tabindex: -1 });
    current = i;
    set(cells[i], { "aria-checked": true, stroke: "#0072b2", "stroke-width": 1.6, tabindex: 0 });
    svg.insertBefore(cells[i], name); // its frame lies above its neighbours'
  }
  function choose(i) {
    mark(i);
    picked(i);
    return cells[i];
  }
  if (picked) for (let i = total - 1; i >= first; i--) mark(i); // ends at the class token, if there is one
  return {
    node: svg,
    show: (source) => image.setAttribute("href", source),
    // Values of the patches, class token excluded: what is low beside `top` is dimmed.
    paint(values, top = Math.max(...values, 1e-12)) {
      values.forEach((value, i) => {
        set(cells[i + 1], { fill: "#000", "fill-opacity": (0.85 * (1 - value / top)).toFixed(3) });
      });
    },
    describe: (text) => svg.setAttribute("aria-label", text),
  };
}

const panel = (title, node) => make("figure", { class: "panel" }, make("figcaption", {}, title), node);

// A table of bars: `show` takes rows of a label and, for each further head, [share of the full width, text], and the
// number of the row that is marked, if any.
function bars(heads) {
  const body = make("tbody");
  const bar = ([share, text]) => make("td", {}, text,
    make("div", { style: `width: ${Math.max(0, 100 * share).toFixed(1)}%` }));
  const row = ([label, ...cells]) => make("tr", {}, make("th", { scope: "row" }, label), ...cells.map(bar));
  return {
    node: make("table", { class: "bars" },
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), body),
    show(rows, marked) {
      body.replaceChildren(...rows.map(row));
      if (marked !== undefined) set(body.children[marked], { "aria-current": true });
    },
  };
}

// What an explorer shows of a token, in words.
function nameOf(token, columns) {
  return token ? `the patch in row ${Math.ceil(token / columns)}, column ${(token - 1) % columns + 1}` : "the class token";
}

// A button for the reader's own photo, for a model that has `photo`: Python reads it and answers with new data.
function photoButton(model) {
  const limit = 1024; // pixels; larger photos are shrunk here, as messages to the kernel have a limit, too
  const says = make("output", {}, model.get("error"));
  const input = make("input", { type: "file", accept: "image/*", change: async () => {
    try {
      const bitmap = await createImageBitmap(input.files[0]); // upright
      const scale = Math.min(1, limit / Math.max(bitmap.width, bitmap.height));
      const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
      const canvas = make("canvas", { width, height });
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, width, height);
      model.set("photo", canvas.toDataURL());
      model.save_changes();
      says.value = "";
    } catch {
      says.value = "this file holds no image that the browser can read: choose a JPEG or PNG file";
    }
  } });
  model.on("change:error", () => { says.value = model.get("error"); });
  return make("div", { class: "controls" }, make("label", {}, "your photo", input), says);
}

// Draw into `el`, now and whenever the data change (in a live notebook).
function mount({ model, el }, draw) {
  const button = model.get("photo") === undefined ? [] : [photoButton(model)];
  const redraw = () => {
    const root = make("div", { class: "explorer" }, ...button);
    el.replaceChildren(make("style", {}, STYLE), root);
    draw(model.get("data"), root);
    for (const node of root.querySelectorAll("input, select, button, [role=radio]")) {
      set(node, { "data-lm-suppress-shortcuts": true }); // else JupyterLab takes the arrow keys for itself
    }
  };
  model.on?.("change:data", redraw);
  redraw();
}
