// The first view: how the run goes, where it stands in its grid, what it costs, and the last answers.
"use strict";

{
  const { html, useEffect, useMemo, useState } = vendor;
  const MEASURES = ["done", "failed", "rejected", "left", "stale"];
  const EVERY_MS = 1500;

  // A number that follows `version` but changes at most so often: what costs more than counters is loaded by it.
  ag.useCalm = (version, every = EVERY_MS) => {
    const [calm, setCalm] = useState(version);
    useEffect(() => {
      if (version === calm) return;
      const timer = setTimeout(() => setCalm(version), every);
      return () => clearTimeout(timer);
    }, [version, calm]);
    return calm;
  };

  ag.RunView = ({ source, run, counters, parameters }) => {
    const version = ag.useCalm(`${counters.version}.${counters.reviews}.${counters.requests}`);
    const path = `runs/${encodeURIComponent(run)}`;
    const overview = ag.useLoad(() => source.get(`${path}/overview`), [run, version]);
    if (!overview.value) {
      return overview.error ? html`<${ag.Problem} ...${overview} />` : html`<${ag.Loading} what="the run" />`;
    }
    const found = overview.value;
    return html`<div class="run">
      <${Problems} found=${found} counters=${counters} run=${run} />
      <${Figures} counters=${counters} found=${found} />
      ${counters.rows || counters.requests
        ? html`<${Grid} ...${{ source, run, path, found, parameters, version }} />`
        : html`<${ag.Empty} title="No answers yet">
            <p class="muted">They appear here as they arrive. <code>asyncgen generate</code> generates them.</p>
          <//>`}
      ${found.shards ? html`<${Shards} shards=${found.shards} run=${found.run} />` : null}
      <div class="columns">
        <${Timeline} timeline=${found.timeline} />
        <${Latency} latency=${found.latency} />
      </div>
      <div class="columns">
        <${Latest} ...${{ source, run, path, version }} />
        <${Pauses} live=${counters.live} />
      </div>
      <p class="muted small">${ag.plain(found.run)}</p>
    </div>`;
  };

  const Problems = ({ found, counters, run }) => html`
    ${counters.bad_lines.length
      ? html`<div class="notice" role="alert">
          <p>
            ${ag.plain(counters.bad_lines[0][0])}, line ${counters.bad_lines[0][1]}${" "}
            cannot be read${counters.bad_lines.length > 1 ? `, and ${ag.count(counters.bad_lines.length - 1)} more` : ""}.
            The other rows are shown.
          </p>
          <p><code>asyncgen repair ${ag.plain(found.run)}</code></p>
        </div>`
      : null}
    ${found.job_problem
      ? html`<div class="notice">
          <p>The job of ${ag.plain(run)} cannot be opened, so what is left is not known by cell:
            ${" "}${ag.plain(found.job_problem.what)}.</p>
          ${found.job_problem.help ? html`<p><code>${ag.plain(found.job_problem.help)}</code></p>` : null}
        </div>`
      : null}
  `;

  const Figures = ({ counters, found }) => {
    const { spend, live, counts } = counters;
    const tokens = spend.prompt_tokens + spend.completion_tokens;
    const spent = spend.cost_usd === null ? "–" : ag.money(spend.cost_usd);
    const limit = spend.max_usd ? `limit ${ag.money(spend.max_usd)}` : null;
    const projected = spend.projected_usd === null ? "no price is known" : `about ${ag.money(spend.projected_usd)} in all`;
    return html`<dl class="figures">
      <${ag.Figure} label="Done" unit="rows" value=${ag.count(counts.done)}
        note=${`of ${ag.count(counters.requests)}${counters.twins ? `, ${ag.count(counters.twins)} twins` : ""}`} />
      <${ag.Figure} label="Rate" unit="rows/min" value=${live ? ag.decimal(live.per_second * 60) : "–"}
        note=${live ? `${ag.duration(live.eta_s)} left` : "not running"} />
      <${ag.Figure} label="In flight" unit="requests" value=${live ? ag.count(live.in_flight) : "–"}
        note=${live ? `limit ${ag.count(live.concurrency)}` : null} />
      <${ag.Figure} label="Refused" unit="429s" value=${live ? ag.count(live.rate_limited) : "–"}
        note=${live ? `${ag.count(live.retries)} retried` : null} />
      <${ag.Figure} label="Spend" unit="USD" value=${spent} note=${limit ? `${projected}, ${limit}` : projected}
        title=${spend.unpriced ? `${ag.count(spend.unpriced)} answers have no known price` : undefined} />
      <${ag.Figure} label="Tokens" value=${ag.count(tokens)}
        note=${`${ag.count(spend.completion_tokens)} written, ${ag.count(spend.cached_tokens)} cached`} />
      <${ag.Figure} label="Model" value=${html`<span class="name">${ag.plain(found.model || "–")}</span>`}
        note=${ag.plain(found.provider || "")} />
    </dl>`;
  };

  const Grid = ({ source, run, path, found, parameters, version }) => {
    const names = found.axes.map((axis) => axis.name);
    const sizes = new Map(found.axes.map((axis) => [axis.name, axis.size]));
    const [first, second] = useMemo(() => mapped(found.axes), [names.join("\n")]);
    const x = names.includes(parameters.get("x")) ? parameters.get("x") : first;
    const named = parameters.get("y");
    const y = named === "" ? "" : names.includes(named) && named !== x ? named : second === x ? first : second;
    const measure = MEASURES.includes(parameters.get("show")) ? parameters.get("show") : "done";
    const heat = ag.useLoad(() => source.get(`${path}/heat`, y && y !== x ? { x, y } : { x }), [x, y, version, run]);
    const change = (name, value) => {
      const next = new URLSearchParams({ x, y, show: measure });
      next.set(name, value);
      ag.go(run, "run", next, { replace: true });
    };
    if (!names.length) return null;
    const select = (name, label, value, values) => html`<label>${label}
      <select value=${value} onChange=${(event) => change(name, event.target.value)}>
        ${values.map((each) => html`<option value=${each} selected=${each === value}>${each ? ag.plain(each) : "none"}</option>`)}
      </select></label>`;
    const open = (across, down) => {
      const wanted = new URLSearchParams();
      if (across !== "(others)") wanted.append(`axis.${x}`, across);
      if (down !== null && down !== "(others)") wanted.append(`axis.${y}`, down);
      if (measure !== "left") wanted.append("status", measure);
      ag.go(run, "records", wanted);
    };
    return html`<section class="panel" aria-labelledby="grid-title">
      <header>
        <h2 id="grid-title">Grid</h2>
        <div class="controls">
          ${select("x", "across", x, names)}
          ${names.length > 1 ? select("y", "down", y, ["", ...names.filter((name) => name !== x)]) : null}
          ${select("show", "show", measure, MEASURES)}
        </div>
      </header>
      ${heat.error ? html`<${ag.Problem} ...${heat} />` : null}
      ${heat.value && heat.value.x ? html`<${ag.HeatMap} heat=${heat.value} measure=${measure} open=${open} />` : null}
      <p class="legend" aria-hidden="true">
        <span>${heat.value?.cells.some((cell) => cell[6] < 0) ? "fewest" : "none"}</span>
        ${[0, 1, 2, 3, 4, 5, 6].map((level) => html`<span class=${`cell ${measure} level-${level}`}></span>`)}
        <span>${heat.value?.cells.some((cell) => cell[6] < 0) ? "most" : "all of the cell"}</span>
        ${measure === "done" ? html`<span class="gap"><span class="cell done level-6 flawed"></span> has failed or rejected rows</span>` : null}
      </p>
      ${sizes.get(x) > 70 || (y && sizes.get(y) > 70)
        ? html`<p class="muted small">The first 70 values of an axis are shown separately, the rest together.</p>`
        : null}
    </section>`;
  };

  // The two axes that make the best map to begin with: more than one value and not too many.
  const mapped = (axes) => {
    const fit = axes.filter((axis) => axis.size > 1 && axis.size <= 70).sort((a, b) => b.size - a.size);
    const [rows, columns] = fit.length > 1 ? [fit[0], fit[1]] : [null, fit[0] || axes[0]];
    return [columns?.name, rows?.name || ""];
  };

  const Timeline = ({ timeline }) => {
    const data = useMemo(() => {
      const times = timeline.counts.map((_, number) => timeline.began + number * timeline.step_s);
      return [times, timeline.counts.map((count) => (count * 60) / timeline.step_s)];
    }, [timeline]);
    const total = timeline.counts.reduce((sum, count) => sum + count, 0);
    return html`<section class="panel" aria-labelledby="time-title">
      <h2 id="time-title">Answers over time <span class="unit">rows/min</span></h2>
      ${timeline.counts.length > 2
        ? html`<${ag.Lines} data=${data} x="time" height=${168} fromZero
            label=${`${ag.count(total)} rows in ${ag.duration(timeline.counts.length * timeline.step_s)}`}
            series=${[{ label: "rows/min", colour: "--accent", fill: true, steps: true }]} />`
        : html`<p class="muted">The curve needs answers over a few seconds.</p>`}
    </section>`;
  };

  const Latency = ({ latency }) => {
    const edges = latency.edges_s;
    const bars = latency.counts.map((count, number) => ({
      count,
      label: number < edges.length ? `${edges[number]}` : "more",
      title: number === 0 ? `less than ${edges[0]} s` : number < edges.length
        ? `${edges[number - 1]} to ${edges[number]} s` : `${edges.at(-1)} s and more`,
    }));
    const any = latency.counts.some((count) => count);
    return html`<section class="panel" aria-labelledby="latency-title">
      <h2 id="latency-title">Latency <span class="unit">number of answers, each bar up to</span></h2>
      ${any
        ? html`<${ag.Histogram} bars=${bars} label="Answers by latency" />`
        : html`<p class="muted">No answers yet.</p>`}
    </section>`;
  };

  const Latest = ({ source, run, path, version }) => {
    const latest = ag.useLoad(() => source.get(`${path}/records`, { sort: "newest", count: 8 }), [run, version]);
    const rows = latest.value?.rows || [];
    return html`<section class="panel" aria-labelledby="latest-title">
      <h2 id="latest-title">Last answers</h2>
      ${rows.length ? null : html`<p class="muted">${latest.loading ? "Reading …" : "None yet."}</p>`}
      <ol class="latest">
        ${rows.map(
          (row) => html`<li key=${row.key}>
            <a href=${ag.href(run, "records", { row: row.key })}>
              <${ag.Glyph} status=${row.status} />
              <span class="what"><span class="muted">${ag.variables(row.variables)}</span>
                <span class="preview" dir="auto">${ag.visible(row.text)}</span></span>
              <span class="when muted"><${ag.When} unix=${row.created} /></span>
            </a>
          </li>`,
        )}
      </ol>
    </section>`;
  };

  const SHARD_STATES = { straggler: "straggler", running: "running", done: "done", idle: "not running" };

  // What a shard is doing, in the words of `asyncgen status`; one that holds the others up first.
  const shardState = (shard) =>
    shard.straggler ? "straggler" : !shard.left ? "done" : shard.running ? "running" : "idle";

  const Shards = ({ shards, run }) => html`<section class="panel" aria-labelledby="shards-title">
    <h2 id="shards-title">Shards</h2>
    <p class="muted">${ag.count(shards.count)} shards, ${ag.count(shards.running)} at work,
      ${" "}${ag.count(shards.done)} done. When all have ended: <code>asyncgen merge ${ag.plain(run)}</code></p>
    <div class="scrolls"><table class="plain">
      <thead><tr><th>Shard</th><th class="number">Done</th><th class="number">Failed</th><th class="number">Left</th>
        <th class="number">Rate <span class="unit">rows/min</span></th><th>State</th></tr></thead>
      <tbody>
        ${shards.shown.map(
          (shard) => html`<tr><th scope="row">${shard.shard}</th>
            <td class="number">${ag.count(shard.done)}</td><td class="number">${ag.count(shard.failed)}</td>
            <td class="number">${ag.count(shard.left)}</td>
            <td class="number">${shard.per_second === null ? "–" : ag.decimal(shard.per_second * 60)}</td>
            <td class=${shardState(shard)}>${SHARD_STATES[shardState(shard)]}</td></tr>`,
        )}
      </tbody>
    </table></div>
    ${shards.count > shards.shown.length
      ? html`<p class="muted">and ${ag.count(shards.count - shards.shown.length)} more</p>`
      : null}
  </section>`;

  const Pauses = ({ live }) => html`<section class="panel" aria-labelledby="pauses-title">
    <h2 id="pauses-title">Pauses</h2>
    ${!live
      ? html`<p class="muted">Pauses are shown during a run.</p>`
      : !live.pauses.length
        ? html`<p class="muted">None: the server accepted every request.</p>`
        : html`<table class="plain">
            <thead><tr><th>When</th><th class="number">Length <span class="unit">s</span></th><th>Why</th></tr></thead>
            <tbody>
              ${[...live.pauses].reverse().map(
                (pause) => html`<tr><td><${ag.When} unix=${pause.began} /></td>
                  <td class="number">${ag.seconds(pause.until - pause.began)}</td><td>${ag.plain(pause.reason)}</td></tr>`,
              )}
            </tbody>
          </table>`}
  </section>`;
}
