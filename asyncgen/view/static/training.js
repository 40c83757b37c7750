// Fine-tuning jobs: where they are, what they told, and their losses over each other.
"use strict";

{
  const { html, useMemo, useState } = vendor;
  const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5"];

  ag.TrainingView = ({ source, run, counters, parameters }) => {
    const path = `runs/${encodeURIComponent(run)}`;
    const loaded = ag.useLoad(() => source.get(`${path}/training`), [run, JSON.stringify(counters.training)]);
    if (!loaded.value) return loaded.error ? html`<${ag.Problem} ...${loaded} />` : html`<${ag.Loading} what="the training" />`;
    const { jobs } = loaded.value;
    if (!jobs.length) {
      return html`<${ag.Empty} title="No fine-tuning job yet">
        <p class="muted"><code>asyncgen finetune create ${ag.plain(run)}</code> creates one, after <code>asyncgen prepare</code>.</p>
      <//>`;
    }
    const smoothing = Math.min(Math.max(Number(parameters.get("smooth") ?? 60), 0), 95);
    const hidden = new Set(parameters.getAll("without"));
    const change = (edit) => {
      const next = new URLSearchParams(parameters);
      edit(next);
      ag.go(run, "training", next, { replace: true });
    };
    const shown = jobs.filter((job) => !hidden.has(job.id));
    return html`
      <section class="panel" aria-labelledby="loss-title">
        <header><h2 id="loss-title">Loss</h2>
          <label class="controls">smoothing
            <input type="range" min="0" max="95" value=${smoothing} aria-valuetext=${`${smoothing} percent`}
              onInput=${(event) => change((next) => next.set("smooth", event.target.value))} />
          </label>
        </header>
        <${Curves} jobs=${shown} all=${jobs} smoothing=${smoothing / 100} />
        <ul class="keys">
          ${jobs.map(
            (job, number) => html`<li><label class="value">
              <input type="checkbox" checked=${!hidden.has(job.id)} onChange=${() => change((next) => {
                next.delete("without");
                for (const each of jobs) if (hidden.has(each.id) !== (each === job)) next.append("without", each.id);
              })} />
              <span class=${`swatch series-${(number % COLOURS.length) + 1}`}></span>
              <span class="words">${ag.plain(job.id || job.status)}</span></label></li>`,
          )}
          <li class="muted small">solid: training (raw points faint) · dashed: validation</li>
        </ul>
      </section>
      ${jobs.map((job) => html`<${Job} key=${job.id} job=${job} />`)}
    `;
  };

  // An average that forgets; as many raw points weigh in as there are at the start, so that it does not begin at zero.
  const smoothed = (values, keep) => {
    let sum = 0;
    let weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = sum * keep + value;
      weight = weight * keep + 1;
      return sum / weight;
    });
  };

  const Curves = ({ jobs, all, smoothing }) => {
    const basis = JSON.stringify([jobs.map((job) => [job.id, job.points.length, job.points.at(-1)]), smoothing]);
    const [data, series] = useMemo(() => {
      const steps = [...new Set(jobs.flatMap((job) => job.points.map((point) => point[0])))].sort((a, b) => a - b);
      const columns = [];
      const lines = [];
      for (const job of jobs) {
        const at = new Map(job.points.map((point) => [point[0], point]));
        const raw = steps.map((step) => at.get(step)?.[1] ?? null);
        const validation = steps.map((step) => at.get(step)?.[2] ?? null);
        const colour = COLOURS[all.indexOf(job) % COLOURS.length];
        columns.push(raw, smoothed(raw, smoothing));
        lines.push({ label: `${job.id} raw`, colour, faint: true }, { label: job.id, colour });
        if (validation.some((value) => value !== null)) {
          columns.push(validation);
          lines.push({ label: `${job.id} validation`, colour, dash: [6, 4], points: true });
        }
      }
      return [[steps, ...columns], lines];
    }, [basis]);
    if (data[0].length < 2) return html`<p class="muted">No figures yet: the curve begins with the second reported step.</p>`;
    const last = jobs.map((job) => {
      const [step, train, valid] = job.points.at(-1) || [];
      return step === undefined ? "" : `${job.id}: step ${step}, training loss ${ag.decimal(train)}, validation loss ${ag.decimal(valid)}`;
    });
    return html`<${ag.Lines} data=${data} series=${series} x="step" height=${300} label=${`Loss by step. ${last.join("; ")}`}
      xFormat=${(value) => (Number.isInteger(value) ? ag.count(value) : "")} />`;
  };

  const Job = ({ job }) => {
    const [all, setAll] = useState(false);
    const events = [...job.events].reverse();
    const last = job.points.at(-1);
    const latest = (column) => ag.decimal([...job.points].reverse().find((point) => point[column] !== null)?.[column]);
    return html`<section class="panel" aria-label=${`Job ${job.id}`}>
      <header>
        <h2>${ag.plain(job.id || "Not created yet")}</h2>
        <span class=${`pill ${job.ended ? "" : "active"}`}>${ag.plain(job.status || "unknown")}</span>
      </header>
      <dl class="figures">
        <${ag.Figure} label="Model" value=${html`<span class="name">${ag.plain(job.model || "–")}</span>`} note=${ag.plain(job.provider)} />
        <${ag.Figure} label="Tuned model" value=${html`<span class="name">${ag.plain(job.tuned_model || "–")}</span>`} />
        <${ag.Figure} label="Step" value=${last ? ag.count(last[0]) : "–"} />
        <${ag.Figure} label="Training loss" value=${latest(1)} />
        <${ag.Figure} label="Validation loss" value=${latest(2)} />
        <${ag.Figure} label="Created" value=${html`<${ag.When} unix=${job.created} />`} />
      </dl>
      ${events.length
        ? html`<table class="plain">
            <thead><tr><th>When</th><th>Event</th></tr></thead>
            <tbody>
              ${(all ? events : events.slice(0, 8)).map(
                (event) => html`<tr class=${event.level}><td class="nowrap"><${ag.When} unix=${event.at} /></td>
                  <td>${event.level === "info" ? "" : `${ag.plain(event.level)}: `}${ag.visible(event.message)}</td></tr>`,
              )}
            </tbody>
          </table>
          ${events.length > 8 ? html`<button class="link" onClick=${() => setAll(!all)}>${all ? "Fewer" : `${ag.count(events.length - 8)} more`}</button>` : null}`
        : html`<p class="muted">No events yet. Events are saved while <code>asyncgen finetune follow</code> runs.</p>`}
    </section>`;
  };
}
