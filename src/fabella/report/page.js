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
const LEFT = 58, RIGHT = 628, TOP = 12, BOTTOM = 256;
const pointsOf = (line) => line.tagName === "circle"
  ? [[+line.getAttribute("cx"), +line.getAttribute("cy")]]
  : line.getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number));

function showValues(svg, at) {
  const between = (range, share) => {
    const [low, high, log] = range.split(",").map(Number);
    return log ? low * (high / low) ** share : low + share * (high - low);
  };
  const value = (y) => between(svg.dataset.y, (BOTTOM - y) / (BOTTOM - TOP));
  svg.querySelectorAll(".cross, .dot").forEach((old) => old.remove());
  const mark = (name, attributes, className) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, to] of Object.entries(attributes)) element.setAttribute(key, to);
    element.setAttribute("class", className);
    svg.append(element);
  };
  const values = [];
  let x = at;
  for (const line of svg.querySelectorAll(".line")) {
    const nearest = pointsOf(line).reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best);
    if (Math.abs(nearest[0] - at) > 40) continue;
    if (line.classList.contains("bold")) x = nearest[0];
    mark("circle", { cx: nearest[0], cy: nearest[1], r: 4 }, `dot ${[...line.classList].find((c) => c.startsWith("run-"))}`);
    values.push(`${line.dataset.name} ${format(value(nearest[1]))}`);
  }
  mark("path", { d: `M${x} ${TOP}V${BOTTOM}` }, "cross");
  const position = between(svg.dataset.x, (x - LEFT) / (RIGHT - LEFT));
  const caption = svg.closest("figure").querySelector("figcaption");
  caption.textContent = `at ${svg.dataset.kind === "seconds" ? duration(position) : format(position)}: ${values.join(", ")}`;
  svg.dataset.at = x;
}

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.("figure svg");
  if (!svg) return;
  const box = svg.getBoundingClientRect();
  showValues(svg, Math.min(RIGHT, Math.max(LEFT, (event.clientX - box.left) / box.width * 640)));
});
document.addEventListener("keydown", (event) => {
  const svg = event.target.closest?.("figure svg");
  const step = { ArrowLeft: -6, ArrowRight: 6 }[event.key];
  if (!svg || !step) return;
  event.preventDefault();
  showValues(svg, Math.min(RIGHT, Math.max(LEFT, +(svg.dataset.at ?? RIGHT) + step)));
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
