// One row whole, in the pane beside the list or in a sheet over it.
"use strict";

{
  const { html, useEffect, useRef, useState } = vendor;

  const Section = ({ title, children, open = true, note }) => html`<details class="section" open=${open}>
    <summary>${title}${note === undefined ? null : html` <span class="muted note">${note}</span>`}</summary>
    ${children}
  </details>`;

  ag.Detail = ({ source, run, rowKey, version, actions, position, total }) => {
    const path = `runs/${encodeURIComponent(run)}/records/${rowKey}`;
    const loaded = ag.useLoad(() => source.get(path), [run, rowKey, version]);
    const place = useRef(null);
    useEffect(() => place.current?.scrollTo(0, 0), [rowKey]);
    const row = loaded.value?.key === rowKey ? loaded.value : null;
    return html`<article class="detail" ref=${place} aria-label="Row" tabindex="-1">
      <header>
        <div>
          ${row ? html`<${ag.Status} status=${row.status} />` : null}
          <span class="muted small">${position === null ? "not in this filter" : `${ag.count(position + 1)} of ${ag.count(total)}`}</span>
        </div>
        <div class="buttons">
          <button class="icon" onClick=${actions.previous} aria-label="Previous row" title="Previous (k)">↑</button>
          <button class="icon" onClick=${actions.next} aria-label="Next row" title="Next (j)">↓</button>
          <a class="button icon" href=${ag.href(run, "records", { row: rowKey })} target="_blank" rel="noopener noreferrer"
            aria-label="Open in a new tab" title="Open in a new tab (o)">↗</a>
          <button class="icon" onClick=${actions.close} aria-label="Close the row" title="Close (Esc)">✕</button>
        </div>
      </header>
      ${row ? html`<${Whole} ...${{ source, run, row, path, actions }} />`
        : loaded.error ? html`<${ag.Problem} ...${loaded} />` : html`<${ag.Loading} what="the row" />`}
    </article>`;
  };

  const Whole = ({ source, run, row, path, actions }) => {
    const { line } = row;
    const answered = row.status !== "failed" && line.completion !== undefined;
    return html`
      ${source.canWrite && answered
        ? html`<div class="buttons">
            ${row.rejected
              ? html`<button onClick=${() => actions.review("restore", row.key)}>Restore <kbd>x</kbd></button>`
              : html`<button onClick=${() => actions.review("reject", row.key)}>Reject <kbd>x</kbd></button>`}
            ${row.seen
              ? html`<span class="muted">seen</span>`
              : html`<button class="quiet" onClick=${() => actions.review("seen", row.key)}>Mark as seen <kbd>s</kbd></button>`}
          </div>`
        : null}
      ${row.rejected ? html`<p class="notice">You rejected this answer: <code>prepare</code> leaves it out.</p>` : null}
      ${row.marks.length
        ? html`<p class="notice">${answered ? "Fails: " : ""}${row.marks.map(ag.plain).join(", ")}</p>`
        : null}
      <dl class="pairs">
        ${Object.entries(row.variables).map(([name, value]) => html`<div><dt>${ag.plain(name)}</dt><dd dir="auto">${ag.visible(value)}</dd></div>`)}
      </dl>
      ${answered ? html`<${Answer} row=${row} />` : html`<${FailureText} error=${line.error} attempts=${line.attempts} />`}
      <${Request} row=${row} />
      ${answered ? html`<${Figures} line=${line} row=${row} />` : null}
      ${answered ? html`<${Similar} ...${{ source, run, path, rowKey: row.key }} />` : null}
      <${Section} title="Raw" open=${false}><pre class="json">${ag.visible(row.raw)}</pre><//>
    `;
  };

  const Answer = ({ row }) => {
    const { line, fields } = row;
    return html`
      <${Section} title="Answer" note=${`${ag.count(line.completion.length)} characters`}>
        ${fields
          ? html`<dl class="pairs fields">
              ${Object.entries(fields).map(
                ([name, value]) => html`<div><dt>${ag.plain(name)}</dt>
                  <dd dir="auto">${typeof value === "string" ? ag.visible(value) : ag.json(value)}</dd></div>`,
              )}
            </dl>`
          : line.completion
            ? html`<${ag.Text} text=${line.completion} class="answer" />`
            : html`<p class="muted">The answer is empty.</p>`}
      <//>
      ${fields ? html`<${Section} title="Answer as received" open=${false}><${ag.Text} text=${line.completion} class="answer" /><//>` : null}
      ${line.reasoning ? html`<${Section} title="Reasoning" open=${false}><${ag.Text} text=${line.reasoning} /><//>` : null}
      ${line.tool_calls?.length ? html`<${Section} title="Tool calls" note=${ag.count(line.tool_calls.length)}>
        ${line.tool_calls.map((call) => html`<${ToolCall} call=${call} />`)}<//>` : null}
    `;
  };

  const ToolCall = ({ call }) => {
    const called = call.function || call;
    let given = called.arguments ?? null;
    try {
      given = typeof given === "string" ? JSON.parse(given) : given;
    } catch {
      // Arguments that are not JSON are shown as they came.
    }
    return html`<div class="call"><strong>${ag.plain(called.name || "(no name)")}</strong>
      ${typeof given === "string" ? html`<${ag.Text} text=${given} />` : ag.json(given)}</div>`;
  };

  const FailureText = ({ error, attempts }) => html`<${Section} title="Why it failed">
    <dl class="pairs">
      <div><dt>kind</dt><dd>${ag.plain(error.type)}</dd></div>
      ${error.status ? html`<div><dt>status</dt><dd>${error.status}</dd></div>` : null}
      ${error.code ? html`<div><dt>code</dt><dd>${ag.plain(error.code)}</dd></div>` : null}
      <div><dt>attempts</dt><dd>${ag.count(attempts)}</dd></div>
    </dl>
    ${error.message ? html`<${ag.Text} text=${error.message} />` : null}
    <p class="muted"><code>asyncgen generate --retry-failed</code> retries failed rows.</p>
  <//>`;

  const Request = ({ row }) => {
    const { request, request_problem } = row;
    if (!request) return html`<${Section} title="Request" open=${false}><p class="muted">${ag.plain(request_problem || "Unknown")}</p><//>`;
    const { messages = [], ...rest } = request;
    return html`<${Section} title="Request as sent" open=${false}>
      ${messages.map(
        (message) => html`<div class="message"><h3>${ag.plain(message.role)}</h3>
          ${typeof message.content === "string" ? html`<${ag.Text} text=${message.content} />` : ag.json(message.content)}
        </div>`,
      )}
      <h3>parameters</h3>
      ${ag.json(rest)}
    <//>`;
  };

  const Figures = ({ line, row }) => html`<${Section} title="Figures">
    <dl class="pairs">
      <div><dt>model</dt><dd>${ag.plain(line.model || "–")}</dd></div>
      ${line.simulated ? html`<div><dt>simulated</dt><dd>yes, not written by a model</dd></div>` : null}
      <div><dt>finish reason</dt><dd>${ag.plain(line.finish_reason || "–")}</dd></div>
      <div><dt>prompt tokens</dt><dd>${ag.count(line.usage.prompt_tokens)} (${ag.count(line.usage.cached_tokens)} cached)</dd></div>
      <div><dt>completion tokens</dt><dd>${ag.count(line.usage.completion_tokens)} (${ag.count(line.usage.reasoning_tokens)} of reasoning)</dd></div>
      <div><dt>latency</dt><dd>${ag.seconds(line.latency_s)} s</dd></div>
      <div><dt>attempts</dt><dd>${ag.count(line.attempts)}</dd></div>
      <div><dt>came</dt><dd><${ag.When} unix=${line.created} /></dd></div>
      <div><dt>place in the grid</dt><dd>${ag.count(line.index)}, repeat ${ag.count(line.repeat)}</dd></div>
      <div><dt>request id</dt><dd>${ag.plain(line.request_id || "–")}</dd></div>
      <div><dt>key</dt><dd><code>${row.key}</code></dd></div>
    </dl>
  <//>`;

  const Similar = ({ source, run, path, rowKey }) => {
    const [open, setOpen] = useState(false);
    const loaded = ag.useLoad(() => (open ? source.get(`${path}/similar`) : Promise.resolve(null)), [rowKey, open]);
    const rows = loaded.value?.rows;
    return html`<details class="section" open=${open} onToggle=${(event) => setOpen(event.target.open)}>
      <summary>Nearly the same</summary>
      ${loaded.value?.absent
        ? html`<p class="muted">Only available with <code>asyncgen view</code>, not in an export.</p>`
        : loaded.error
          ? html`<${ag.Problem} ...${loaded} />`
          : !rows
            ? html`<p class="muted">Comparing answers …</p>`
            : !rows.length
              ? html`<p class="muted">No similar answer: all share less than half of the word pairs.</p>`
              : html`<ol class="latest">
                  ${rows.map(
                    (row) => html`<li key=${row.key}>
                      <a href=${ag.href(run, "records", { row: row.key })}>
                        <span class="share">${Math.round(row.similarity * 100)} %</span>
                        <span class="what"><span class="muted">${row.same_prompt ? "same prompt" : ag.variables(row.variables)}</span>
                          <span class="preview" dir="auto">${ag.visible(row.text)}</span></span>
                      </a>
                    </li>`,
                  )}
                </ol>`}
    </details>`;
  };
}
