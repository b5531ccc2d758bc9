// Flow: what the class token reads in each layer, and what rollout makes of it. It plays once, where motion is welcome.

function render(context) {
  mount(context, (data, root) => {
    const { href, layers, grid: [rows, columns], count } = data;
    const single = decode(data.single), rolled = decode(data.rolled); // layer, key
    const n = rows * columns + 1;
    const row = (values, layer) => [...values.slice((layer - 1) * n, layer * n)];
    const [reads, sum, chosen] = times(3, () => tokenGrid({ href, rows, columns }));
    const says = make("p", { class: "says" });
    const button = make("button", { type: "button", click: () => timer ? stop() : play() });
    let timer;

    function show(layer) {
      const one = row(single, layer), all = row(rolled, layer), patches = all.slice(1);
      const least = [...patches].sort((a, b) => b - a)[count - 1], best = patches.indexOf(Math.max(...patches)) + 1;
      reads.paint(one.slice(1));
      sum.paint(patches);
      chosen.paint(patches.map((value) => +(value >= least)));
      reads.describe(`what the class token reads in layer ${layer}`);
      sum.describe(`rollout of layers 1 to ${layer}`);
      chosen.describe(`the ${count} patches with the largest rollout`);
      says.textContent = `After layer ${layer} of ${layers}, ${percent(1 - all[0])} of the class token came from ` +
        `patches, the largest share from ${nameOf(best, columns)} (${percent(all[best])}).`;
    }

    function stop() {
      clearInterval(timer);
      timer = undefined;
      button.textContent = "play";
      set(says, { "aria-live": "polite" });
    }

    function play() {
      let layer = 0;
      const step = () => {
        layer += 1;
        position.put(layer);
        show(layer);
        if (layer === layers || !root.isConnected) stop();
      };
      set(says, { "aria-live": "off" }); // who listens is not interrupted by what moves
      button.textContent = "stop";
      timer = setInterval(step, 1500);
      step();
    }

    const position = slider("layer", { min: 1, max: layers, value: layers }, (layer) => { stop(); show(layer); });
    root.append(
      make("div", { class: "panels flowing" },
        panel("one layer", reads.node), panel("rollout", sum.node), panel("selected", chosen.node)),
      make("div", { class: "controls" }, button, position), says);
    stop();
    show(layers);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
  });
}

export default { render };
