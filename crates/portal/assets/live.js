// The live page's own script: draws the loss curve from the `points` events of the page's
// event stream, and says whether the stream is there. Everything else is swapped by htmx.
"use strict";

(() => {
  const live = document.getElementById("live");
  if (!live) return;

  // ---- Is the stream there? ----

  const link = document.getElementById("link");
  const say = (state, words) => {
    if (!link || link.dataset.state === state) return;
    link.dataset.state = state;
    link.textContent = words;
  };
  live.addEventListener("htmx:sse:after:connection", () => say("up", "live"));
  live.addEventListener("htmx:sse:after:message", () => say("up", "live"));
  for (const gone of ["htmx:sse:error", "htmx:sse:close", "htmx:sse:before:connection"]) {
    live.addEventListener(gone, () => {
      if (link?.dataset.state) say("down", "connection lost, trying again");
    });
  }

  // htmx looks at the page in a timer after its own script, which on a slow line is before the
  // script that knows about streams is here: the page then never went live. So this script, which
  // runs before both, puts the stream away until both are here and that timer has fired.
  const stream = live.getAttribute("hx-sse:connect");
  live.removeAttribute("hx-sse:connect");
  document.addEventListener("DOMContentLoaded", () => {
    setTimeout(() => {
      live.setAttribute("hx-sse:connect", stream);
      htmx.process(live);
    });
  });

  // ---- The curve ----

  const place = document.getElementById("curve");
  if (!place || typeof uPlot === "undefined") return;
  const readout = document.getElementById("readout");
  let points = null;
  let chart = null;

  const colour = (name) => getComputedStyle(place).getPropertyValue(name).trim();

  const width = () => Math.max(200, Math.floor(place.clientWidth));
  const height = () => (width() < 520 ? 220 : 300);

  const loss = (value) => (value == null ? null : value.toFixed(3));

  const showReadout = (self) => {
    const index = self.cursor.idx;
    if (!readout) return;
    if (index == null) {
      readout.textContent = "";
      return;
    }
    const parts = [`revision ${self.data[0][index]}`];
    const training = loss(self.data[1][index]);
    const heldOut = loss(self.data[2][index]);
    if (training) parts.push(`training ${training}`);
    if (heldOut) parts.push(`held-out ${heldOut}`);
    readout.textContent = parts.join(" · ");
  };

  const options = () => {
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = {
      stroke: colour("--muted"),
      font,
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
    };
    return {
      width: width(),
      height: height(),
      padding: [8, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { setScale: false, x: false, y: false } },
      scales: { x: { time: false } },
      axes: [
        { ...axis, size: 32, gap: 8, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
        { ...axis, size: 44, gap: 8 },
      ],
      series: [
        {},
        {
          label: "training",
          stroke: colour("--accent"),
          width: 2,
          spanGaps: true,
          points: { show: points.x.length < 3 },
        },
        {
          label: "held-out",
          stroke: colour("--ink"),
          width: 1.5,
          dash: [5, 4],
          spanGaps: true,
          points: { show: true, size: 7, width: 1.5, fill: colour("--card") },
        },
      ],
      hooks: { setCursor: [showReadout] },
    };
  };

  const columns = () => [points.x, points.training, points.held_out];

  const build = () => {
    if (!points || points.x.length === 0) return;
    chart?.destroy();
    place.replaceChildren();
    place.classList.remove("blank");
    chart = new uPlot(options(), columns(), place);
    place.setAttribute("role", "img");
    place.setAttribute("aria-labelledby", "curve-title");
    place.setAttribute("aria-describedby", "curve-words");
    place.dataset.points = String(points.x.length);
  };

  live.addEventListener("points", (event) => {
    const before = points;
    points = JSON.parse(event.detail.data);
    // Dots on a line of one or two points, none on a longer one: built anew in between.
    if (!chart || before.x.length < 3) {
      build();
    } else {
      chart.setData(columns());
      place.dataset.points = String(points.x.length);
    }
  });

  new ResizeObserver(() => {
    if (chart && chart.width !== width()) chart.setSize({ width: width(), height: height() });
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
})();
