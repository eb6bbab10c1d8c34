// Connects each slider of mpbook.figures.sliders: a range control, a drawing, the frames as JSON.
(() => {
  const made = (parent, name, attributes = {}, text = "") => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    one.textContent = text;
    return parent.appendChild(one);
  };

  // Rows of images: a canvas for each, with what it shows below.
  const images = (plot, layout) => {
    const titles = Object.keys(layout).filter((key) => key.startsWith("xaxis")).map((key) => layout[key].title.text);
    const canvases = titles.map((title) => {
      const panel = plot.appendChild(document.createElement("span"));
      const canvas = panel.appendChild(document.createElement("canvas"));
      panel.append(title.replace("<br>", " "));
      return canvas;
    });
    return (frame) => frame.forEach(({ z }, k) => {
      const height = z.length, width = z[0].length, canvas = canvases[k];
      Object.assign(canvas, { width, height });
      const pen = canvas.getContext("2d"), picture = pen.createImageData(width, height);
      z.flat().forEach((level, i) => picture.data.set([...(level.length ? level : [level, level, level]), 255], 4 * i));
      pen.putImageData(picture, 0, 0);
    });
  };

  // Round numbers between two ends, a handful of them.
  const ticks = (low, high, many) => {
    const rough = (high - low) / many, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
    const first = Math.ceil(low / step - 1e-9), count = Math.floor(high / step + 1e-9) - first;
    const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return Array.from({ length: count + 1 }, (_, k) => {
      const value = (first + k) * step || 0;
      return [value, value.toFixed(places).replace("-", "−")];
    });
  };

  // Lines and points over fixed axes, in the ink of the page.
  const chart = (plot, layout, first) => {
    const legend = plot.appendChild(document.createElement("div"));
    legend.className = "mp-slider-legend";
    const look = (trace) => trace.mode === "markers"
      ? { stroke: "none", fill: trace.marker.color }
      : { fill: "none", stroke: trace.line.color, "stroke-width": 2.2, "stroke-dasharray": trace.line.dash === "dash" ? "7 5" : "none" };
    for (const trace of first) {
      const entry = legend.appendChild(document.createElement("span"));
      const swatch = made(entry, "svg", { width: 26, height: 10, "aria-hidden": "true" });
      if (trace.mode === "markers") made(swatch, "circle", { cx: 13, cy: 5, r: 4, ...look(trace) });
      else made(swatch, "line", { x1: 0, x2: 26, y1: 5, y2: 5, ...look(trace) });
      entry.append(trace.name);
    }
    const svg = made(plot, "svg"), { l, t, b } = layout.margin, r = 14, [x, y] = [layout.xaxis, layout.yaxis];
    return (frame) => {
      const width = plot.clientWidth, height = Math.min(layout.height, 0.8 * width);
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const across = (v) => l + ((v - x.range[0]) / (x.range[1] - x.range[0])) * (width - l - r);
      const up = (v) => height - b - ((v - y.range[0]) / (y.range[1] - y.range[0])) * (height - t - b);
      for (const [value, text] of ticks(...x.range, width / 90)) {
        made(svg, "line", { class: "mp-grid", x1: across(value), x2: across(value), y1: t, y2: height - b });
        made(svg, "text", { x: across(value), y: height - b + 18, "text-anchor": "middle" }, text);
      }
      for (const [value, text] of ticks(...y.range, height / 60)) {
        made(svg, "line", { class: "mp-grid", x1: l, x2: width - r, y1: up(value), y2: up(value) });
        made(svg, "text", { x: l - 8, y: up(value) + 4, "text-anchor": "end" }, text);
      }
      made(svg, "text", { x: (l + width - r) / 2, y: height - 6, "text-anchor": "middle" }, x.title.text);
      const middle = (t + height - b) / 2;
      made(svg, "text", { x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, "text-anchor": "middle" }, y.title.text);
      const inside = made(svg, "svg", { x: l, y: t, width: width - l - r, height: height - t - b, viewBox: `${l} ${t} ${width - l - r} ${height - t - b}` });
      for (const trace of frame) {
        const points = trace.x.map((v, k) => [across(v), up(trace.y[k])]);
        if (trace.mode === "markers") for (const [cx, cy] of points) made(svg, "circle", { cx, cy, r: 4.5, ...look(trace) });
        else made(inside, "polyline", { points: points.join(" "), ...look(trace) });
      }
    };
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const slider of document.querySelectorAll(".mp-slider")) {
      const plot = slider.querySelector(".mp-slider-plot"), control = slider.querySelector("input");
      const output = slider.querySelector("output");
      const { frames, labels, layout } = JSON.parse(slider.querySelector("script").textContent);
      const paint = layout.meta?.square ? images(plot, layout) : chart(plot, layout, frames[0]);
      const draw = () => {
        const label = labels[control.value];
        output.textContent = label;
        control.setAttribute("aria-valuetext", label);
        paint(frames[control.value]);
      };
      control.addEventListener("input", draw);
      addEventListener("resize", draw);
      draw();
    }
  });
})();
