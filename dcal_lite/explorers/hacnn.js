// HA-CNN explorer: drag the regions over an image, see what is cut out; play their training.

const HUES = ["#e69f00", "#56b4e9", "#cc79a7", "#333333"]; // of the regions, from the top

function render(context) {
  mount(context, (data, root) => {
    const { size: [height, width], regions, moments, levels } = data;
    const images = data.images.map(({ href, maps, centres }) => ({ href,
      maps: maps.map(decode), centres: decodeFloats(centres) }));
    const state = { image: 0, level: 0, moment: moments - 1, region: 0, centres: [], timer: null };

    // Where the network puts the regions: [x, y] each, in [-1, 1].
    function placed() {
      const start = (state.moment * levels.length + state.level) * regions * 2;
      const values = images[state.image].centres;
      return times(regions, (t) => [values[start + 2 * t], values[start + 2 * t + 1]]);
    }

    // The image, as coarse as the level's map, at (u, v) in [-1, 1]: bilinear, and 0 outside.
    function sample(u, v) {
      const { map: [rows, columns] } = levels[state.level], values = images[state.image].maps[state.level];
      const x = ((u + 1) * columns - 1) / 2, y = ((v + 1) * rows - 1) / 2, left = Math.floor(x), top = Math.floor(y);
      const colour = [0, 0, 0];
      for (const [row, column] of [[top, left], [top, left + 1], [top + 1, left], [top + 1, left + 1]]) {
        if (row < 0 || row >= rows || column < 0 || column >= columns) continue;
        const share = (1 - Math.abs(x - column)) * (1 - Math.abs(y - row));
        for (let c = 0; c < 3; c++) colour[c] += share * values[(row * columns + column) * 3 + c];
      }
      return colour;
    }

    function cut(canvas, [x, y]) {
      const [rows, columns] = levels[state.level].crop;
      Object.assign(canvas, { width: columns, height: rows });
      const pixels = new ImageData(columns, rows);
      for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
        const colour = sample(x + (2 * column + 1) / columns - 1, y + ((2 * row + 1) / rows - 1) / regions);
        pixels.data.set([...colour.map((value) => Math.round(255 * value)), 255], 4 * (row * columns + column));
      }
      canvas.getContext("2d").putImageData(pixels, 0, 0);
    }

    const image = make("image", { href: images[0].href, width, height });
    const hue = (t) => HUES[t % HUES.length];
    const frame = (stroke, thick) => make("rect", { width, height: height / regions, fill: "none", stroke,
      "stroke-width": thick, "vector-effect": "non-scaling-stroke" });
    const frames = times(regions, (t) => [frame("#fff", 5), frame(hue(t), 3)]);
    const svg = make("svg", { viewBox: `${-0.4 * width} -1 ${1.8 * width} ${height + 2}`, class: "dragged", role: "img",
      "aria-label": "the image and the regions" }, image, ...frames.flat());
    const crops = times(regions, (t) => make("canvas", { role: "img", "aria-label": `crop of region ${t + 1}`,
      style: `border: 2px solid ${hue(t)}` }));
    const says = make("p", { class: "says", "aria-live": "polite" });

    // The place of a pointer in the image, in [-1, 1].
    function place(event) {
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return [2 * x / width - 1, 2 * y / height - 1];
    }

    let held = null; // from the centre to the pointer, while dragging
    set(svg, {
      pointerdown: (event) => {
        const [x, y] = place(event), far = state.centres.map(([u, v]) => Math.hypot(x - u, y - v));
        state.region = far.indexOf(Math.min(...far));
        held = [x - state.centres[state.region][0], y - state.centres[state.region][1]];
        svg.setPointerCapture(event.pointerId);
        update();
      },
      pointermove: (event) => held && move(place(event).map((value, k) => Math.min(1, Math.max(-1, value - held[k])))),
      pointerup: () => { held = null; },
      pointercancel: () => { held = null; },
    });

    function move(centre) {
      state.centres[state.region] = centre;
      update();
    }

    const signed = (value) => value.toFixed(2).replace(/^-(?=0\.00)/, "");
    function update() {
      state.centres.forEach(([x, y], t) => {
        for (const rect of frames[t]) set(rect, { x: x * width / 2, y: (y + 1 - 1 / regions) * height / 2 });
        cut(crops[t], [x, y]);
      });
      const t = state.region, level = levels[state.level], [x, y] = state.centres[t], [u, v] = placed()[t];
      which.put(t);
      across.put(x);
      down.put(y);
      const inside = (1 - Math.abs(x) / 2) * Math.min(1, (1 - Math.abs(y)) * regions / 2 + 0.5);
      const away = Math.hypot((x - u) * width / 2, (y - v) * height / 2);
      says.textContent = `Region ${t + 1} has its centre at (${signed(x)}, ${signed(y)}), ${away.toFixed(1)} pixels ` +
        `from where the network puts it. ${percent(1 - inside)} of it is outside of the image and read as 0. ` +
        `Level ${state.level + 1} takes ${level.crop.join(" × ")} samples of a map of ${level.map.join(" × ")}.`;
    }

    function reset(change = {}) {
      Object.assign(state, change);
      state.centres = placed();
      update();
    }

    function play(moment = 0) {
      clearTimeout(state.timer);
      training.put(moment);
      reset({ moment });
      if (moment < moments - 1) state.timer = setTimeout(play, 400, moment + 1);
    }

    const axis = { min: -1, max: 1, step: 0.01, value: 0, show: signed };
    const which = choice("region", times(regions, (t) => [t, t + 1]), 0, (t) => { state.region = +t; update(); });
    const across = slider("across", axis, (x) => move([x, state.centres[state.region][1]]));
    const down = slider("down", axis, (y) => move([state.centres[state.region][0], y]));
    const training = slider("training", { min: 0, max: moments - 1, value: moments - 1,
      show: (moment) => `${moment} of ${moments - 1}` }, (moment) => { clearTimeout(state.timer); reset({ moment }); });
    root.append(
      make("div", { class: "controls" },
        ...imageChoice(images, (i) => { image.setAttribute("href", images[i].href); reset({ image: i }); }),
        choice("level", levels.map((_, l) => [l, l + 1]), 0, (level) => reset({ level: +level })),
        which, across, down, make("button", { type: "button", click: () => reset() }, "as the network has it"),
        ...(moments > 1 ? [training, make("button", { type: "button", click: () => play() }, "play training")] : [])),
      make("div", { class: "panels", style: "align-items: flex-start" }, panel("regions", svg),
        panel("what is cut out", make("div", { class: "crops" }, ...crops))),
      says);
    reset();
  });
}

export default { render };
