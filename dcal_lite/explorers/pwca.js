// PWCA explorer: how much of a token's attention leaks to a partner, layer by layer.

function render(context) {
  mount(context, (data, root) => {
    const { layers, grid: [rows, columns], href, partners } = data;
    const n = rows * columns + 1;
    const alone = decode(data.alone); // layer, query, key: self-attention, heads averaged
    const maps = partners.map((partner) => decode(partner.maps)); // layer, query, key of both images
    const state = { partner: 0, token: 0, layer: layers };

    // The row of the token that asks in layer `layer` (from 1).
    function row(map, layer, keys) {
      const start = ((layer - 1) * n + state.token) * keys;
      return [...map.slice(start, start + keys)];
    }

    const sum = (values) => values.reduce((total, value) => total + value, 0);

    const query = tokenGrid({ href, rows, columns, label: "token of image 1 that asks",
      picked: (token) => { state.token = token; update(); } });
    const own = tokenGrid({ href, rows, columns });
    const other = tokenGrid({ href: partners[0].href, rows, columns });
    const leaks = bars(["layer", "attention on the partner"]);
    const says = make("p", { class: "says", "aria-live": "polite" });

    // Where one image is read most, in words.
    function words(values) {
      const patches = values.slice(1);
      const best = patches.indexOf(Math.max(...patches)) + 1;
      return `${nameOf(best, columns)} (${percent(values[best])})`;
    }

    function update() {
      const map = maps[state.partner];
      const both = row(map, state.layer, 2 * n), self = row(alone, state.layer, n);
      const halves = [both.slice(0, n), both.slice(n)];
      const top = Math.max(...halves[0].slice(1), ...halves[1].slice(1));
      [own, other].forEach((panel, i) => {
        panel.paint(halves[i].slice(1), top);
        panel.describe(`image ${i + 1} is read most at ${words(halves[i])}`);
      });
      const shares = [...Array(layers).keys()].map((i) => sum(row(map, i + 1, 2 * n).slice(n)));
      leaks.show(shares.map((share, i) => [i + 1, [share, percent(share)]]), state.layer - 1);
      const gap = Math.max(...halves.flatMap((half) => half.map((value, j) => Math.abs(value - self[j] / 2))));
      const who = capital(nameOf(state.token, columns));
      says.textContent = `${who} of image 1 asks. In layer ${state.layer}, ` +
        `${percent(shares[state.layer - 1])} of its attention leaks to image 2. It reads most from ${words(halves[0])} ` +
        `of its own image and from ${words(halves[1])} of the partner.` + (partners[state.partner].itself
          ? ` Both halves are self-attention's map divided by two: no weight differs by more than ${(100 * gap).toFixed(2)} %.` : "");
    }

    function swap(partner) {
      state.partner = partner;
      other.show(partners[partner].href);
      update();
    }

    root.append(
      make("div", { class: "controls" },
        choice("partner", partners.map(({ name }, i) => [i, name]), 0, (i) => swap(+i)),
        slider("layer", { min: 1, max: layers, value: layers }, (layer) => { state.layer = layer; update(); })),
      make("div", { class: "panels" },
        panel("who asks", query.node), panel("read in image 1", own.node), panel("read in image 2", other.node)),
      leaks.node, says);
    update();
  });
}

export default { render };
