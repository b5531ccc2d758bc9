// Ranking explorer: move the items of a ranked list and change what they are; rank-1 and both APs follow.

const KINDS = { match: "same person, other camera", same_camera: "same person, same camera", other: "another person" };

function render(context) {
  mount(context, (data, root) => {
    const { query, limit, step } = data;
    const items = data.items.map((item) => ({ ...item }));
    const state = { rule: true, item: Math.max(0, items.findIndex((item) => item.kind === "match")) };

    const leftOut = (item) => state.rule && item.kind === "same_camera";
    const isMatch = (item) => item.kind === "match" || (item.kind === "same_camera" && !state.rule);
    // Equally near items rank by their index: JavaScript's sort is stable.
    const ordered = () => [...items].sort((a, b) => a.distance - b.distance);

    // Ranks of the true matches, from 1, among what is not left out; and the two precisions at each of them.
    function score(list) {
      const valid = list.filter((item) => !leftOut(item));
      const ranks = valid.flatMap((item, k) => isMatch(item) ? [k + 1] : []), n = ranks.length;
      const after = ranks.map((rank, i) => (i + 1) / rank);
      const before = ranks.map((rank, i) => rank > 1 ? i / (rank - 1) : 1);
      const mean = (values) => values.reduce((a, b) => a + b, 0) / n;
      return { valid, ranks, after, before, plain: mean(after), trapezoid: (mean(before) + mean(after)) / 2 };
    }

    // Axes from 0 to 1 and curves in them: lists of points and their attributes.
    function chart(across, up, label, ...curves) {
      const at = ([x, y]) => `${16 + 80 * x},${88 - 80 * y}`;
      const text = (content, place) => make("text", { "text-anchor": "middle", ...place }, content);
      return make("svg", { viewBox: "0 0 100 106", role: "img", "aria-label": label, class: "plot" },
        ...curves.map(([points, look]) => make("polyline", { fill: "none", ...look, points: points.map(at).join(" ") })),
        make("path", { d: "M16 8V88H96", fill: "none", stroke: "currentColor" }),
        text("0", { x: 10, y: 91 }), text("1", { x: 10, y: 11 }), text(across, { x: 56, y: 102 }),
        text(up, { transform: "translate(8 48) rotate(-90)" }));
    }

    function draw({ valid, ranks, after, before, plain, trapezoid }) {
      const n = ranks.length, line = { stroke: "currentColor", "stroke-width": 1.5 };
      const area = (colour) => ({ fill: colour, "fill-opacity": 0.5 });
      const hits = (k) => ranks.filter((rank) => rank <= k).length; // among the first k
      const curve = [[0, before[0]], ...valid.map((_, k) => [hits(k + 1) / n, hits(k + 1) / (k + 1)])];
      const bars = (left, right) => ranks.flatMap((_, i) =>
        [[i / n, 0], [i / n, left[i]], [(i + 1) / n, right[i]], [(i + 1) / n, 0]]);
      const cmc = valid.map((_, k) => Math.min(hits(k + 1), 1));
      const found = cmc.flatMap((value, k) => [[k / valid.length, value], [(k + 1) / valid.length, value]]);
      charts.replaceChildren(
        panel("AP", chart("recall", "precision", `rectangles under the curve, area ${plain.toFixed(3)}`,
          [bars(after, after), area("#0072b2")], [curve, line])),
        panel("trapezoid AP", chart("recall", "precision", `trapezoids under the curve, area ${trapezoid.toFixed(3)}`,
          [bars(before, after), area("#009e73")], [curve, line])),
        panel("CMC", chart(`rank, 1 to ${valid.length}`, "found", `0 before rank ${ranks[0]}, then 1`, [found, line])));
    }

    const list = make("div", { class: "ranked", role: "radiogroup", "aria-label": "ranked list" });
    const charts = make("div", { class: "panels" });
    const says = make("p", { class: "says", "aria-live": "polite" });
    const nodes = items.map((_, k) => make("div", { role: "radio", "data-item": k, click: () => choose(k) },
      make("img", { alt: "" }), make("span")));
    list.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const order = ordered(), place = order.indexOf(items[state.item]) + step;
      choose(items.indexOf(order[Math.min(Math.max(place, 0), order.length - 1)]));
    });

    function choose(k) {
      state.item = k;
      update();
      nodes[k].focus();
    }

    function update() {
      const order = ordered(), scores = score(order), { valid, ranks, plain, trapezoid } = scores;
      for (const item of order) {
        const k = items.indexOf(item), rank = valid.indexOf(item) + 1, chosen = k === state.item;
        nodes[k].firstChild.src = item.pictures[item.kind];
        nodes[k].lastChild.textContent = rank || "–";
        set(nodes[k], { "aria-checked": chosen, tabindex: chosen ? 0 : -1,
          class: leftOut(item) ? "out" : isMatch(item) ? "match" : "",
          "aria-label": [rank ? `rank ${rank}` : "left out", KINDS[item.kind], item.distance.toFixed(1)].join(", ") });
      }
      list.replaceChildren(...order.map((item) => nodes[items.indexOf(item)]));
      distance.put(items[state.item].distance);
      kind.put(items[state.item].kind);
      if (ranks.length) draw(scores);
      else charts.replaceChildren();
      says.textContent = ranks.length
        ? `True matches at ranks ${ranks.join(", ")} of ${valid.length}. Rank-1 ${ranks[0] === 1 ? 1 : 0}, AP ` +
          `${plain.toFixed(3)}, trapezoid AP ${trapezoid.toFixed(3)}.`
        : "No true match is left: this query is not scored.";
    }

    const distance = slider("its distance", { min: 0, max: limit, step, value: 0, show: (value) => value.toFixed(1) },
      (value) => { items[state.item].distance = value; update(); });
    const kind = choice("it shows", Object.entries(KINDS), "match",
      (value) => { items[state.item].kind = value; update(); });
    root.append(
      make("div", { class: "ranked" }, make("div", {}, make("img", { alt: "", src: query }), "query")),
      list,
      make("div", { class: "controls" }, distance, kind, tick("leave out the query's person by its camera", state.rule,
        (checked) => { state.rule = checked; update(); })),
      charts, says);
    update();
  });
}

export default { render };
