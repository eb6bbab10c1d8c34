// The laboratory: small networks of the 8 × 8 digits and a gradient attack, in the browser alone.
// Weights are those of mpkit.studies.zoo, exactly; all numbers are in double precision.
(() => {
  const { networks, images, labels, radii } = window.MP_LAB_DATA;
  const SIDE = 8, PIXELS = SIDE * SIDE;

  const half = (bits) => {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, part = bits & 1023;
    if (exponent === 31) return part ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + part / 1024) : 2 ** -24 * part);
  };
  const unpacked = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 2 }, (_, i) => half(view.getUint16(2 * i, true)));
  };

  // Visits every product of a 3 × 3 convolution with a border of one pixel.
  const convolved = (from, side, to, stride, visit) => {
    const width = Math.ceil(side / stride);
    for (let o = 0; o < to; o++) for (let i = 0; i < width; i++) for (let j = 0; j < width; j++) {
      const out = (o * width + i) * width + j;
      for (let c = 0; c < from; c++) for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) {
        const row = i * stride + a - 1, column = j * stride + b - 1;
        if (row < 0 || column < 0 || row >= side || column >= side) continue;
        visit(out, (c * side + row) * side + column, ((o * from + c) * 3 + a) * 3 + b);
      }
    }
    return to * width * width;
  };
  const relu = (z) => z.map((value) => Math.max(value, 0));
  const gated = (slope, z) => slope.map((value, i) => (z[i] > 0 ? value : 0));
  const spread = (bias, size) => Float64Array.from({ length: size }, (_, i) => bias[Math.floor(i / (size / bias.length))]);
  const linear = (x, weight, bias) => bias.map((start, o) => {
    let sum = start;
    for (let i = 0; i < x.length; i++) sum += weight[o * x.length + i] * x[i];
    return sum;
  });
  const linearBack = (slope, weight, size) => {
    const back = new Float64Array(size);
    slope.forEach((value, o) => { for (let i = 0; i < size; i++) back[i] += value * weight[o * size + i]; });
    return back;
  };

  const opened = {};
  const weightsOf = (name) => (opened[name] ??= networks[name].map(unpacked));
  const forward = (name, x) => {
    const [w1, b1, w2, b2, w3, b3, w4, b4] = weightsOf(name);
    const shifted = x.map((value) => (value - 0.5) / 0.5);
    const z1 = spread(b1, 16 * PIXELS);
    convolved(1, SIDE, 16, 1, (o, i, w) => { z1[o] += w1[w] * shifted[i]; });
    const a1 = relu(z1), z2 = spread(b2, 32 * 16);
    convolved(16, SIDE, 32, 2, (o, i, w) => { z2[o] += w2[w] * a1[i]; });
    const z3 = linear(relu(z2), w3, b3);
    return { z1, z2, z3, logits: linear(relu(z3), w4, b4) };
  };
  const logits = (name, x) => [...forward(name, Float64Array.from(x)).logits];
  const softmax = (z) => {
    const top = Math.max(...z), e = z.map((value) => Math.exp(value - top));
    const sum = e.reduce((a, b) => a + b);
    return e.map((value) => value / sum);
  };
  const best = (z) => z.indexOf(Math.max(...z));
  const lossOf = (z, y) => { const top = Math.max(...z); return top + Math.log(z.reduce((s, v) => s + Math.exp(v - top), 0)) - z[y]; };
  // Loss, answer, and the slope of the loss in every pixel.
  const slopeOf = (name, x, y) => {
    const [w1, , w2, , w3, , w4] = weightsOf(name), { z1, z2, z3, logits: z } = forward(name, x);
    const wrong = Float64Array.from(softmax([...z]), (share, k) => share - (k === y));
    const s3 = gated(linearBack(wrong, w4, z3.length), z3);
    const s2 = gated(linearBack(s3, w3, z2.length), z2);
    const s1 = new Float64Array(z1.length), g = new Float64Array(PIXELS);
    convolved(16, SIDE, 32, 2, (o, i, w) => { s1[i] += w2[w] * s2[o]; });
    const t1 = gated(s1, z1);
    convolved(1, SIDE, 16, 1, (o, i, w) => { g[i] += 2 * w1[w] * t1[o]; });
    return { loss: lossOf([...z], y), answer: best([...z]), g };
  };

  const clip = (value, low, high) => Math.min(Math.max(value, low), high);
  const length = { l2: (z) => Math.hypot(...z), l1: (z) => z.reduce((s, v) => s + Math.abs(v), 0) };
  const nearer = { l2: (v, t) => v / (1 + t), l1: (v, t) => Math.sign(v) * Math.max(Math.abs(v) - t, 0) };
  // The nearest point of ball and box: one unknown number, found by halving.
  const project = (z, x, norm, eps) => {
    const boxed = (d) => d.map((value, i) => clip(value, -x[i], 1 - x[i]));
    if (norm === "linf") return boxed(z.map((value) => clip(value, -eps, eps)));
    const at = (t) => boxed(z.map((value) => nearer[norm](value, t)));
    if (length[norm](at(0)) <= eps) return at(0);
    let low = 0, high = norm === "l1" ? Math.max(...z.map(Math.abs)) : length.l2(z) / eps;
    for (let k = 0; k < 100; k++) {
      const t = (low + high) / 2;
      if (length[norm](at(t)) > eps) low = t; else high = t;
    }
    return at(high);
  };
  // The steepest step of that length; in l1 the best pixels go to their walls, one after another.
  const stride = (image, g, norm, size) => {
    if (norm === "linf") return g.map((value) => size * Math.sign(value));
    if (norm === "l2") { const norm2 = length.l2(g); return g.map((value) => (norm2 ? (size * value) / norm2 : 0)); }
    const step = new Float64Array(PIXELS);
    let left = size;
    for (const i of [...g.keys()].sort((a, b) => Math.abs(g[b]) - Math.abs(g[a]))) {
      const move = Math.min(g[i] > 0 ? 1 - image[i] : image[i], left);
      step[i] = Math.sign(g[i]) * move;
      left -= g[i] ? move : 0;
    }
    return step;
  };
  // Projected gradient ascent from the image, keeping the best point: attacks.PGD, start Clean().
  const attack = (name, image, y, norm, eps, steps) => {
    const x = Float64Array.from(image);
    let z = new Float64Array(PIXELS), kept = z, rank = -Infinity;
    for (let k = 0; k <= steps; k++) {
      const here = x.map((value, i) => value + z[i]);
      const { loss, answer, g } = slopeOf(name, here, y);
      const now = loss + (answer === y ? 0 : 1e3);
      if (now > rank) [kept, rank] = [z, now];
      const step = stride(here, g, norm, (2.5 * eps) / steps);
      z = project(z.map((value, i) => value + step[i]), x, norm, eps);
    }
    return [...kept];
  };
  window.mpLab = { logits, attack, images, labels, networks: Object.keys(networks) };

  addEventListener("DOMContentLoaded", () => {
    const lab = document.querySelector(".mp-lab"), part = (name) => lab.querySelector(`[name=${name}]`);
    const views = [...lab.querySelectorAll("canvas")], table = lab.querySelector("tbody");
    const said = lab.querySelector("output");
    let drawn = [...images[0]];
    const paint = (canvas, values) => {
      const pen = canvas.getContext("2d"), picture = pen.createImageData(SIDE, SIDE);
      values.forEach((value, i) => picture.data.set([...Array(3).fill(255 * clip(value, 0, 1)), 255], 4 * i));
      pen.putImageData(picture, 0, 0);
    };
    const show = () => {
      const norm = part("norm").value, name = part("network").value, steps = +part("steps").value;
      const eps = (radii[norm] * part("radius").value) / 100, before = logits(name, drawn), y = best(before);
      const z = attack(name, drawn, y, norm, eps, steps), after = logits(name, drawn.map((v, i) => v + z[i]));
      const parts = [["digit", drawn], ["change", z.map((v) => 0.5 + v / 2)], ["attacked", drawn.map((v, i) => v + z[i])]];
      parts.forEach(([, values], k) => paint(views[k], values));
      const chances = [softmax(before), softmax(after)], percent = (share) => `${(100 * share).toFixed(1)}`;
      table.replaceChildren(...chances[0].map((share, k) => {
        const row = document.createElement("tr");
        row.innerHTML = `<th scope="row">${k}</th><td>${percent(share)}</td><td>${percent(chances[1][k])}</td>`;
        return row;
      }));
      const moved = z.filter((value) => Math.abs(value) > 0.01).length, end = best(after);
      lab.querySelector("[data-for=radius]").textContent = eps.toFixed(3);
      lab.querySelector("[data-for=steps]").textContent = steps;
      said.textContent = `The network reads ${y}` + (end === y ? ", and still does after the attack" : `, and ${end} after the attack`) +
        `; ${moved} pixels moved by more than 0.01.`;
    };
    for (const name of ["network", "norm", "radius", "steps"]) part(name).addEventListener("input", show);
    part("digit").addEventListener("input", () => { drawn = [...images[part("digit").value]]; show(); });
    lab.querySelector("button").addEventListener("click", () => { drawn = Array(PIXELS).fill(0); show(); });
    const ink = (event) => {
      if (!event.buttons) return;
      const box = views[0].getBoundingClientRect();
      const at = [event.clientY - box.top, event.clientX - box.left].map((v) => Math.floor((v / box.width) * SIDE));
      if (Math.min(...at) < 0 || Math.max(...at) >= SIDE) return;
      drawn[at[0] * SIDE + at[1]] = 1;
      show();
    };
    for (const kind of ["pointerdown", "pointermove"]) views[0].addEventListener(kind, ink);
    show();
  });
})();
