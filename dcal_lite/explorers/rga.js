// RGA explorer: a position's relations to all others, its gate, and its relations embedded in two ways.

function render(context) {
  mount(context, (data, root) => {
    const { stage, grid: [rows, columns] } = data;
    const n = rows * columns, weight = decodeFloats(data.weight); // (R, 2 n), [W_out | W_in]
    const embedded = weight.length / (2 * n);
    const images = data.images.map(({ href, ...values }) => ({ href,
      gate: decodeFloats(values.gate), theta: decodeFloats(values.theta), phi: decodeFloats(values.phi) }));
    const width = images[0].theta.length / n;
    const state = { image: 0, position: 0 };
    const sum = (count, term) => times(count, term).reduce((a, b) => a + b, 0);

    // theta(x_i) . phi(x_j), a sum over the embedded features.
    function relation(i, j) {
      const { theta, phi } = images[state.image];
      return sum(width, (c) => theta[c * n + i] * phi[c * n + j]);
    }

    const row = (i) => times(n, (j) => relation(i, j)), column = (i) => times(n, (j) => relation(j, i));

    // W_out on row i of the affinity, and W_in on its column i.
    function byAffinity(i) {
      const out = row(i), into = column(i);
      return times(embedded, (k) =>
        sum(n, (j) => weight[2 * n * k + j] * out[j] + weight[2 * n * k + n + j] * into[j]));
    }

    // (W_out phi^T) theta_i + (W_in theta^T) phi_i: the brackets are the same for all positions.
    function byBrackets(i) {
      const { theta, phi } = images[state.image];
      return times(embedded, (k) => sum(width, (c) => {
        const out = sum(n, (j) => weight[2 * n * k + j] * phi[c * n + j]);
        const into = sum(n, (j) => weight[2 * n * k + n + j] * theta[c * n + j]);
        return out * theta[c * n + i] + into * phi[c * n + i];
      }));
    }

    const name = (i) => `row ${Math.floor(i / columns) + 1}, column ${i % columns + 1}`;
    const where = (values) => values.indexOf(Math.max(...values));
    const options = { href: images[0].href, rows, columns };
    const asks = tokenGrid({ ...options, classToken: false, label: "position that asks",
      picked: (token) => { state.position = token - 1; update(); } });
    const out = tokenGrid(options), into = tokenGrid(options);
    const body = make("tbody");
    const says = make("p", { class: "says", "aria-live": "polite" });

    function update() {
      const i = state.position, gate = images[state.image].gate;
      const toAll = row(i), ofAll = column(i);
      asks.paint([...gate]);
      out.paint(toAll);
      into.paint(ofAll);
      out.describe(`relations of ${name(i)} to all positions, highest to ${name(where(toAll))}`);
      into.describe(`relations of all positions to ${name(i)}, highest of ${name(where(ofAll))}`);
      const one = byAffinity(i), two = byBrackets(i);
      body.replaceChildren(...one.map((value, k) => make("tr", {}, ...[k + 1, value.toFixed(4), two[k].toFixed(4),
        (value - two[k]).toExponential(0)].map((text) => make("td", {}, String(text))))));
      const far = Math.max(...one.map((value, k) => Math.abs(value - two[k])));
      says.textContent = `The position in ${name(i)} has the gate ${gate[i].toFixed(3)}. ` +
        `It relates most to ${name(where(toAll))} (${Math.max(...toAll).toFixed(3)}); ` +
        `${name(where(ofAll))} relates most to it (${Math.max(...ofAll).toFixed(3)}). ` +
        `The two ways to embed its ${2 * n} relations differ by at most ${far.toExponential(0)}.`;
    }

    function turn(image) {
      state.image = image;
      for (const grid of [asks, out, into]) grid.show(images[image].href);
      update();
    }

    const products = (count) => count.toLocaleString("en");
    const heads = ["", "affinity", "brackets", "difference"];
    root.append(
      make("div", { class: "controls" }, ...imageChoice(images, turn)),
      make("div", { class: "panels" }, panel(`gates, stage ${stage}`, asks.node),
        panel("it to all", out.node), panel("all to it", into.node)),
      make("p", {}, `Its relations, embedded, before normalisation. For all ${n} positions this takes ` +
        `${products(n * n * width + n ** 3 / 4)} products by the affinity, ${products(n * n * width / 2)} in brackets.`),
      make("table", { class: "numbers", "aria-label": "embedded relations" },
        make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
        body),
      says);
    update();
  });
}

export default { render };
