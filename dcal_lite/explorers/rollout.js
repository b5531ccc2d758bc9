// Rollout explorer: one layer's attention beside rollout, for any token, head and residual weight.

function render(context) {
  mount(context, (data, root) => {
    const { layers, heads, grid: [rows, columns], images } = data;
    const n = rows * columns + 1;
    const maps = images.map((image) => decode(image.maps)); // layer, head, query, key
    const state = { image: 0, token: 0, layer: layers, head: "mean", residual: 0.5 };

    // Row `token` of layer `layer` (from 1): of one head, or of the mean of all.
    function row(layer, token) {
      const values = new Float64Array(n);
      const chosen = state.head === "mean" ? [...Array(heads).keys()] : [+state.head];
      for (const head of chosen) {
        const start = (((layer - 1) * heads + head) * n + token) * n;
        for (let j = 0; j < n; j++) values[j] += maps[state.image][start + j] / chosen.length;
      }
      return values;
    }

    // Row `token` of S~_layer ... S~_1 with S~ = (1 - residual) S + residual E (Eq. 2 with 0.5): from the last layer down.
    function rolled(token) {
      let vector = new Float64Array(n);
      vector[token] = 1;
      for (let layer = state.layer; layer >= 1; layer--) {
        const next = vector.map((value) => state.residual * value);
        for (let i = 0; i < n; i++) {
          if (vector[i] === 0) continue;
          const weights = row(layer, i);
          for (let j = 0; j < n; j++) next[j] += (1 - state.residual) * vector[i] * weights[j];
        }
        vector = next;
      }
      return vector;
    }

    function words(values) {
      const patches = values.slice(1);
      const best = patches.indexOf(Math.max(...patches)) + 1;
      return `most on ${nameOf(best, columns)} (${percent(values[best])}), ` +
        `${percent(values[state.token])} on itself`;
    }

    const query = tokenGrid({ href: images[0].href, rows, columns, label: "token that asks",
      picked: (token) => { state.token = token; update(); } });
    const single = tokenGrid({ href: images[0].href, rows, columns });
    const rolling = tokenGrid({ href: images[0].href, rows, columns });
    const says = make("p", { class: "says", "aria-live": "polite" });

    function update() {
      const one = row(state.layer, state.token), all = rolled(state.token);
      single.paint([...one.slice(1)]);
      rolling.paint([...all.slice(1)]);
      single.describe(`attention of layer ${state.layer}: ${words(one)}`);
      rolling.describe(`rollout of layers 1 to ${state.layer}: ${words(all)}`);
      const who = capital(nameOf(state.token, columns));
      says.textContent = `${who} asks. Layer ${state.layer} alone: ${words(one)}. ` +
        `Rollout of layers 1 to ${state.layer}: ${words(all)}.`;
    }

    function turn(image) {
      state.image = image;
      for (const panel of [query, single, rolling]) panel.show(images[image].href);
      update();
    }

    const headNames = [...Array(heads).keys()].map((head) => [head, `head ${head + 1}`]);
    root.append(
      make("div", { class: "controls" },
        ...imageChoice(images, turn),
        slider("layer", { min: 1, max: layers, value: layers }, (layer) => { state.layer = layer; update(); }),
        choice("head", [["mean", "mean"], ...headNames], "mean", (head) => { state.head = head; update(); }),
        slider("residual weight", { min: 0, max: 1, step: 0.05, value: 0.5, show: (value) => value.toFixed(2) },
          (residual) => { state.residual = residual; update(); })),
      make("div", { class: "panels" },
        panel("who asks", query.node), panel("one layer", single.node), panel("rollout", rolling.node)),
      says);
    update();
  });
}

export default { render };
