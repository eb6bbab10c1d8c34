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
  // How far the right answer is ahead of the best other one; at or below zero it is lost.
  const marginOf = (z, y) => z[y] - Math.max(...z.filter((_, k) => k !== y));
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
    return { loss: lossOf([...z], y), answer: best([...z]), margin: marginOf([...z], y), g };
  };

  const clip = (value, low, high) => Math.min(Math.max(value, low), high);
  const length = { linf: (z) => Math.max(...z.map(Math.abs)), l2: (z) => Math.hypot(...z), l1: (z) => z.reduce((s, v) => s + Math.abs(v), 0) };
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
  const changed = (x, z) => x.map((value, i) => value + z[i]);
  const rankOf = (loss, answer, y) => loss + (answer === y ? 0 : 1e3);
  // Projected gradient ascent from the image, keeping the best point: attacks.PGD, start Clean().
  const climb = (name, x, y, norm, eps, steps) => {
    let z = new Float64Array(PIXELS), kept = z, rank = -Infinity;
    const margins = [];
    for (let k = 0; k <= steps; k++) {
      const here = changed(x, z), { loss, answer, margin, g } = slopeOf(name, here, y);
      const now = rankOf(loss, answer, y);
      margins.push(margin);
      if (now > rank) [kept, rank] = [z, now];
      const step = stride(here, g, norm, (2.5 * eps) / steps);
      z = project(changed(z, step), x, norm, eps);
    }
    return { z: [...kept], margins };
  };
  // Turn an image about its centre, then shift it; bilinear, black outside: sets.RotationTranslation.
  const warp = (x, [right, down, degrees]) => {
    const angle = (degrees * Math.PI) / 180, cosine = Math.cos(angle), sine = Math.sin(angle);
    const middle = (SIDE - 1) / 2, inside = (at) => at >= 0 && at < SIDE;
    const pixel = (i, j) => (inside(i) && inside(j) ? x[i * SIDE + j] : 0);
    return x.map((_, place) => {
      const v = Math.floor(place / SIDE) - middle - down, u = (place % SIDE) - middle - right;
      const across = clip(cosine * u - sine * v + middle, -1, SIDE);
      const along = clip(sine * u + cosine * v + middle, -1, SIDE);
      const j = Math.floor(across), i = Math.floor(along), b = across - j, a = along - i;
      const row = (k) => pixel(k, j) + b * (pixel(k, j + 1) - pixel(k, j));
      return row(i) + a * (row(i + 1) - row(i));
    });
  };
  const line = (n) => Array.from({ length: n }, (_, k) => (n === 1 ? 0 : (2 * k) / (n - 1) - 1));
  // Every pose of a grid, three shifts each way and so many angles: attacks.Grid(shifts=3).
  const sweep = (name, x, y, scale, angles) => {
    let kept = x, rank = -Infinity;
    const margins = [], [pixels, degrees] = radii.rt.map((bound) => bound * scale);
    for (const right of line(3)) for (const down of line(3)) for (const turn of line(angles)) {
      const image = warp(x, [pixels * right, pixels * down, degrees * turn]), z = logits(name, image);
      const now = rankOf(lossOf(z, y), best(z), y);
      margins.push(marginOf(z, y));
      if (now > rank) [kept, rank] = [image, now];
    }
    return { z: [...kept].map((value, i) => value - x[i]), margins };
  };
  // The change that was found, and the margin at everything that was tried. The size is a radius,
  // or for poses what their usual bounds are multiplied by.
  const search = (name, image, y, norm, size, steps) => {
    const x = Float64Array.from(image);
    return norm === "rt" ? sweep(name, x, y, size, steps) : climb(name, x, y, norm, size, steps);
  };
  const attack = (...given) => search(...given).z;
  window.mpLab = { logits, search, attack, images, labels, networks: Object.keys(networks) };

  addEventListener("DOMContentLoaded", () => {
    const lab = document.querySelector(".mp-lab"), part = (name) => lab.querySelector(`[name=${name}]`);
    const views = [...lab.querySelectorAll("canvas")], table = lab.querySelector(".mp-lab-classes tbody");
    const said = lab.querySelector("output"), chart = lab.querySelector("svg");
    // An address such as laboratory.html?norm=l1&steps=40 sets the controls.
    for (const [name, value] of new URLSearchParams(location.search)) {
      if (/^(digit|network|norm|radius|steps)$/.test(name)) part(name).value = value;
    }
    let drawn = [...images[part("digit").value]];
    const paint = (canvas, values) => {
      const pen = canvas.getContext("2d"), picture = pen.createImageData(SIDE, SIDE);
      values.forEach((value, i) => picture.data.set([...Array(3).fill(255 * clip(value, 0, 1)), 255], 4 * i));
      pen.putImageData(picture, 0, 0);
    };
    // The margin at each try, with a line where the answer changes.
    const plot = (margins) => {
      const top = Math.max(...margins, 0), span = top - Math.min(...margins, 0) || 1;
      const height = (value) => 6 + (88 * (top - value)) / span;
      const points = margins.map((value, k) => `${4 + (292 * k) / (margins.length - 1 || 1)},${height(value)}`);
      const tried = `${Math.min(...margins).toFixed(2)} at the least, in ${margins.length} tries`, zero = height(0);
      chart.innerHTML = `<line x1="0" x2="300" y1="${zero}" y2="${zero}"/><polyline points="${points.join(" ")}"/>`;
      chart.setAttribute("aria-label", `The margin over the tries: ${tried}`);
      lab.querySelector("[data-for=margin]").textContent = `${tried}; on the broken line the answer changes.`;
    };
    const place = (z) => {
      for (const norm of ["linf", "l2", "l1"]) {
        const long = length[norm](z), row = lab.querySelector(`[data-norm=${norm}]`);
        row.querySelector("meter").value = long / radii[norm];
        row.querySelector("td").textContent = long.toFixed(3);
        row.querySelector("td:last-child").textContent =
          long <= radii[norm] * (1 + 1e-9) ? "inside" : `${(long / radii[norm]).toFixed(1)} radii`;
      }
    };
    const show = () => {
      const norm = part("norm").value, name = part("network").value, steps = +part("steps").value;
      const scale = part("radius").value / 100, size = norm === "rt" ? scale : radii[norm] * scale;
      const before = logits(name, drawn), y = best(before);
      const { z, margins } = search(name, drawn, y, norm, size, steps), after = logits(name, changed(drawn, z));
      [drawn, z.map((v) => 0.5 + v / 2), changed(drawn, z)].forEach((values, k) => paint(views[k], values));
      plot(margins);
      place(z);
      const chances = [softmax(before), softmax(after)], percent = (share) => `${(100 * share).toFixed(1)}`;
      table.replaceChildren(...chances[0].map((share, k) => {
        const row = document.createElement("tr");
        row.innerHTML = `<th scope="row">${k}</th><td>${percent(share)}</td><td>${percent(chances[1][k])}</td>`;
        return row;
      }));
      const moved = z.filter((value) => Math.abs(value) > 0.01).length, end = best(after);
      lab.querySelector("[data-for=radius]").textContent = norm !== "rt" ? size.toFixed(3)
        : `${(radii.rt[0] * scale).toFixed(2)} pixels, ${(radii.rt[1] * scale).toFixed(0)} degrees`;
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
