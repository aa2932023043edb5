"use strict";
// Show the values of curves at the pointer or with the arrow keys, and follow the training if the page is served.
const format = (value) => {
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (size >= unit) return (value / (letter === "k" ? 1e3 : unit)).toPrecision(4) + letter;
  return size && size < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(4));
};
const duration = (seconds) => {
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
};
const numbers = (text) => text.split(",").map(Number);
const pointsOf = (line) => line.tagName === "circle"
  ? [[+line.getAttribute("cx"), +line.getAttribute("cy")]]
  : line.getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number));

// Positions at which the cursor stops: the points of the bold lines, or of all lines if none is bold.
function stops(svg) {
  const bold = svg.querySelectorAll(".line.bold");
  const lines = bold.length ? bold : svg.querySelectorAll(".line");
  return [...new Set([...lines].flatMap((line) => pointsOf(line).map(([x]) => x)))].sort((a, b) => a - b);
}

// Return the height of a line at x, and whether it is between two of its points; null outside the line.
function heightAt(points, x) {
  const after = points.findIndex(([at]) => at >= x);
  if (after < 0 || (after === 0 && points[0][0] > x)) return null;
  const [right, top] = points[after];
  if (right === x) return [top, false];
  const [left, bottom] = points[after - 1];
  return [bottom + (top - bottom) * (x - left) / (right - left), true];
}

// Put the cursor at x: a line, a dot on each curve, and its value in the caption.
function showValues(svg, x) {
  const [left, right, top, bottom] = numbers(svg.dataset.frame);
  const between = (range, share) => {
    const [low, high, log] = numbers(range);
    return log ? low * (high / low) ** share : low + share * (high - low);
  };
  const figure = svg.closest("figure");
  const mark = (name, attributes, className) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, to] of Object.entries(attributes)) element.setAttribute(key, to);
    element.setAttribute("class", className);
    svg.append(element);
  };
  svg.querySelectorAll(".cross, .dot").forEach((old) => old.remove());
  figure.querySelectorAll("output").forEach((output) => { output.textContent = ""; });
  mark("path", { d: `M${x} ${top}V${bottom}` }, "cross");
  for (const line of svg.querySelectorAll(".line")) {
    const at = heightAt(pointsOf(line), x);
    if (!at) continue;
    mark("circle", { cx: x, cy: at[0], r: 4 }, `dot ${[...line.classList].find((c) => c.startsWith("run-"))}`);
    const value = between(svg.dataset.y, (bottom - at[0]) / (bottom - top));
    const entry = [...figure.querySelectorAll(".keys li")].find((item) => item.dataset.name === line.dataset.name);
    if (entry) entry.querySelector("output").textContent = (at[1] ? "≈ " : "") + format(value);
  }
  const position = between(svg.dataset.x, (x - left) / (right - left));
  figure.querySelector(".at").textContent = `at ${svg.dataset.kind === "seconds" ? duration(position) : format(position)}`;
  svg.dataset.at = x;
}

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.("svg[data-frame]");
  if (!svg) return;
  const box = svg.getBoundingClientRect();
  const pointer = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
  showValues(svg, stops(svg).reduce((best, x) => Math.abs(x - pointer) < Math.abs(best - pointer) ? x : best));
});
document.addEventListener("keydown", (event) => {
  const svg = event.target.closest?.("svg[data-frame]");
  const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!svg || !direction) return;
  event.preventDefault();
  const all = stops(svg);
  const at = svg.dataset.at === undefined ? -1 : all.indexOf(+svg.dataset.at);
  const step = direction * Math.max(1, Math.round(all.length / 60));
  showValues(svg, at < 0 ? all.at(direction > 0 ? 0 : -1) : all[Math.min(all.length - 1, Math.max(0, at + step))]);
});

if (document.body.dataset.live) {
  let version = document.body.dataset.live;
  const state = document.querySelector("#live");
  const follow = async () => {
    try {
      const response = await fetch("main", { headers: { "If-None-Match": version }, cache: "no-store" });
      if (response.status === 200) {
        version = response.headers.get("ETag");
        const open = new Set([...document.querySelectorAll("details[open]")].map((element) => element.id));
        document.querySelector("main").innerHTML = await response.text();
        document.querySelectorAll("details").forEach((element) => { if (open.has(element.id)) element.open = true; });
      }
      state.textContent = "following the training";
    } catch {
      state.textContent = "the server has exited; this is the last state";
    }
    setTimeout(follow, 3000);
  };
  setTimeout(follow, 3000);
}
