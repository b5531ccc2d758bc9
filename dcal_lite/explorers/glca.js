// GLCA explorer: which patches ask for a given R, what each of them reads, and what the two readouts make of it.

function render(context) {
  mount(context, (data, root) => {
    const { grid: [rows, columns], images } = data;
    const n = rows * columns + 1;
    const maps = images.map((image) => decode(image.map)); // query, key; heads averaged
    const ranks = images.map(({ order }) => Object.fromEntries(order.map((token, i) => [token, i + 1])));
    const state = { image: 0, token: 0, count: data.count };

    const asks = (token) => token === 0 || ranks[state.image][token] <= state.count;

    const query = tokenGrid({ href: images[0].href, rows, columns, label: "token that asks",
      picked: (token) => { state.token = token; update(); } });
    const reads = tokenGrid({ href: images[0].href, rows, columns });
    const logits = bars(["logit of", "readout cls", "readout pool"]);
    const says = make("p", { class: "says", "aria-live": "polite" });

    // What the token that asks reads, in words.
    function reading() {
      if (!asks(state.token)) {
        return `is not selected: it answers but does not ask before R = ${ranks[state.image][state.token]}.`;
      }
      const values = maps[state.image].slice(state.token * n, (state.token + 1) * n);
      const patches = [...values.slice(1)];
      const best = patches.indexOf(Math.max(...patches)) + 1;
      const selected = patches.reduce((sum, value, i) => sum + (asks(i + 1) ? value : 0), 0);
      return `asks and reads most from ${nameOf(best, columns)} (${percent(values[best])}), ` +
        `${percent(selected)} from the selected patches together and ${percent(values[0])} from the class token.`;
    }

    function update() {
      const { order, classes, cls, pool } = images[state.image];
      const start = state.token * n + 1;
      query.paint(order.map((_, i) => asks(i + 1) ? 1 : 0.3));
      reads.paint(asks(state.token) ? [...maps[state.image].slice(start, start + n - 1)] : order.map(() => 0));
      const top = Math.max(...cls.flat(), ...pool.flat(), 1e-12);
      logits.show(classes.map((name, i) => [`class ${name}`, ...[cls, pool].map((table) => {
        const value = table[state.count - 1][i];
        return [value / top, value.toFixed(2)];
      })]));
      const who = `${capital(nameOf(state.token, columns))} ${reading()}`;
      reads.describe(who);
      const moves = [cls, pool].map((table) => {
        const values = table.map((row) => row[0]);
        return (Math.max(...values) - Math.min(...values)).toFixed(2);
      });
      says.textContent = `${who} Over all R, the logit of class ${classes[0]} moves by ${moves[0]} under the readout ` +
        `cls and by ${moves[1]} under pool.`;
    }

    function turn(image) {
      state.image = image;
      for (const panel of [query, reads]) panel.show(images[image].href);
      update();
    }

    root.append(
      make("div", { class: "controls" },
        ...imageChoice(images, turn),
        slider("R", { min: 1, max: n - 1, value: state.count,
          show: (count) => `${count} of ${n - 1} patches (${percent(count / (n - 1))})` },
        (count) => { state.count = count; update(); })),
      make("div", { class: "panels" },
        panel("selected; who asks", query.node), panel("what it reads", reads.node)),
      logits.node, says);
    update();
  });
}

export default { render };
