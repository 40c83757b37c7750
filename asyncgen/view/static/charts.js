// Pictures: lines over time or steps, a histogram, the map of the grid.
"use strict";

{
  const { html, uPlot, useEffect, useRef } = vendor;

  // A colour of the page as a canvas takes it: of the scheme that holds now.
  const colour = (name, share = 1) => {
    const probe = document.createElement("span");
    probe.style.color = `color-mix(in srgb, var(${name}) ${share * 100}%, transparent)`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  // A chart of lines. `series` is [{label, colour, faint, dash, points}], `data` as uPlot takes it. Drawn anew when its
  // shape or the colour scheme changes; new data only replaces the old.
  ag.Lines = ({ data, series, x, label, height = 200, format, xFormat, fromZero }) => {
    const place = useRef(null);
    const plot = useRef(null);
    const shape = JSON.stringify(series);
    useEffect(() => {
      const draw = () => {
        plot.current?.destroy();
        plot.current = new uPlot(options(place.current, { series, x, height, format, xFormat, fromZero }), data, place.current);
      };
      draw();
      const scheme = matchMedia("(prefers-color-scheme: dark)");
      scheme.addEventListener("change", draw);
      const resized = new ResizeObserver(() => {
        const width = place.current?.clientWidth ?? 0;
        if (width > 0) plot.current?.setSize({ width, height });
      });
      resized.observe(place.current);
      return () => {
        scheme.removeEventListener("change", draw);
        resized.disconnect();
        plot.current?.destroy();
        plot.current = null;
      };
    }, [shape, x, height]);
    useEffect(() => plot.current?.setData(data), [data]);
    return html`<div class="plot" ref=${place} role="img" aria-label=${label}></div>`;
  };

  const options = (element, { series, x, height, format, xFormat, fromZero }) => {
    const axis = {
      stroke: colour("--muted"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line"), width: 1, size: 4 },
    };
    return {
      width: Math.max(element.clientWidth, 200),
      height,
      legend: { show: false },
      cursor: { points: { size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: x === "time" }, y: fromZero ? { range: (_, __, high) => [0, Math.max(high * 1.1, 1)] } : {} },
      axes: [
        { ...axis, size: x === "time" ? 48 : 32, values: xFormat ? (_, values) => values.map(xFormat) : undefined },
        { ...axis, size: 56, values: format ? (_, values) => values.map(format) : undefined },
      ],
      series: [
        {},
        ...series.map((each) => ({
          label: each.label,
          stroke: colour(each.colour, each.faint ? 0.35 : 1),
          width: each.faint ? 1 : 2,
          dash: each.dash,
          fill: each.fill ? colour(each.colour, 0.12) : undefined,
          points: { show: Boolean(each.points), size: 5 },
          spanGaps: true,
          paths: each.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
        })),
      ],
    };
  };

  // Bars with their numbers; the table behind it is what a screen reader is given.
  ag.Histogram = ({ bars, label }) => {
    const most = Math.max(1, ...bars.map((bar) => bar.count));
    return html`<figure class="histogram">
      <figcaption class="hidden">${label}</figcaption>
      <div class="bars">
        ${bars.map(
          (bar) => html`<div class="bar" title=${`${bar.title}: ${ag.count(bar.count)}`}>
            <span class="amount">${bar.count ? ag.count(bar.count) : ""}</span>
            <span class="column" style=${{ height: `${Math.round((bar.count / most) * 96) + (bar.count ? 2 : 0)}px` }}></span>
            <span class="edge">${bar.label}</span>
          </div>`,
        )}
      </div>
    </figure>`;
  };

  // ---- the map of the grid ------------------------------------------------------------------------------------------------

  const ORDER = { done: 2, failed: 3, rejected: 4, stale: 5, left: 6 };
  const CLASSES = 6;

  const cellText = (cell, names) => {
    const parts = Object.keys(ORDER)
      .filter((status) => cell && cell[ORDER[status]] > 0)
      .map((status) => `${ag.count(cell[ORDER[status]])} ${status}`);
    return `${names}: ${parts.length ? parts.join(", ") : "nothing"}`;
  };

  ag.HeatMap = ({ heat, measure, open }) => {
    const { x, y, cells } = heat;
    const at = new Map(cells.map((cell) => [`${cell[0]},${cell[1]}`, cell]));
    const total = (cell) => cell[2] + cell[3] + cell[4] + Math.max(cell[6], 0) + (measure === "stale" ? cell[5] : 0);
    const most = Math.max(1, ...cells.map((cell) => cell[ORDER[measure]]));
    const known = cells.every((cell) => cell[6] >= 0);
    const level = (cell) => {
      const number = cell ? cell[ORDER[measure]] : 0;
      if (number <= 0) return 0;
      const share = known && measure !== "stale" ? number / total(cell) : number / most;
      return Math.max(1, Math.round(share * CLASSES));
    };
    const wide = x.values.length > 16;
    const columns = `minmax(72px, max-content) repeat(${x.values.length}, minmax(${wide ? 14 : 56}px, 1fr))`;
    const one = y.name === null || y.name === undefined;
    return html`<div class=${`heat ${wide ? "dense" : ""}`} style=${{ gridTemplateColumns: columns }} role="group"
      aria-label=${one ? `Rows by ${x.name}` : `Rows by ${x.name} and ${y.name}`}>
      <div class="corner">${one ? "" : `${ag.plain(y.name)} ↓`} ${ag.plain(x.name)} →</div>
      ${x.values.map((value) => html`<div class="across" title=${ag.plain(value)}>${ag.plain(value)}</div>`)}
      ${y.values.map(
        (down, row) => html`
          <div class="down" title=${ag.plain(down)}>${one ? "" : ag.plain(down)}</div>
          ${x.values.map((across, column) => {
            const cell = at.get(`${column},${row}`);
            const names = [`${x.name} ${ag.plain(across)}`, one ? "" : `${y.name} ${ag.plain(down)}`].filter(Boolean);
            const text = cellText(cell, names.join(", "));
            const failed = measure === "done" && cell && cell[3] + cell[4] > 0;
            return html`<button class=${`cell ${measure} level-${level(cell)} ${failed ? "flawed" : ""}`} title=${text}
              aria-label=${text} onClick=${() => open(across, one ? null : down)}>
              ${wide ? "" : cell ? ag.count(cell[ORDER[measure]]) : "0"}
            </button>`;
          })}
        `,
      )}
    </div>`;
  };
}
