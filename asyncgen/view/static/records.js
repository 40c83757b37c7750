// All rows: filters with counts, a list that holds any number of them, and the chosen one beside it.
"use strict";

{
  const { Virtualizer, elementScroll, html, observeElementOffset, observeElementRect } = vendor;
  const { useEffect, useLayoutEffect, useMemo, useRef, useState } = vendor;

  const CHUNK = 100;
  const ROW_PX = 52;
  // A browser lays out no box higher than some 17 million pixels; beyond it a list could not be scrolled to its end.
  const MOST_ROWS = 300000;
  const SORTS = { newest: "newest first", oldest: "oldest first", grid: "in grid order", slowest: "slowest first",
    longest: "longest first", shortest: "shortest first" };
  const NAMES = { finish_reason: "finish reason", check: "failed checks", review: "your review" };

  const nameOf = (facet) => NAMES[facet] || ag.plain(facet.replace(/^axis\./, ""));

  const queryOf = (parameters) => {
    const query = new URLSearchParams(parameters);
    query.delete("row");
    query.sort();
    return query.toString();
  };

  // ---- rows by the hundred -----------------------------------------------------------------------------------------------

  // Rows of a query as they are needed. While a newer answer is awaited the older rows stay.
  const useRows = (source, path, query, version) => {
    const [, draw] = useState(0);
    const store = useRef(null);
    const basis = `${path}?${query}`;
    if (store.current?.basis !== basis) {
      store.current = { basis, version: null, chunks: new Map(), asked: new Set(), head: null, error: null };
    }
    const held = store.current;
    const load = (number, row) => {
      if (held.asked.has(number)) return;
      held.asked.add(number);
      const parameters = new URLSearchParams(query);
      parameters.set("offset", number * CHUNK);
      parameters.set("count", CHUNK);
      if (row) parameters.set("row", row);
      source.get(`${path}/records`, parameters).then(
        (answer) => {
          if (store.current !== held) return;
          held.chunks.set(number, answer.rows);
          held.head = answer;
          held.error = null;
          draw((count) => count + 1);
        },
        (error) => {
          if (store.current !== held) return;
          held.asked.delete(number);
          held.error = error;
          draw((count) => count + 1);
        },
      );
    };
    const refresh = (row) => {
      const wanted = [...held.asked];
      held.asked.clear();
      const near = wanted.length ? wanted : [0];
      for (const number of near.slice(-6)) load(number, row);
      for (const number of [...held.chunks.keys()]) if (!held.asked.has(number)) held.chunks.delete(number);
    };
    return { held, load, refresh, version };
  };

  ag.RecordsView = ({ source, run, counters, parameters, told }) => {
    const path = `runs/${encodeURIComponent(run)}`;
    const query = queryOf(parameters);
    const chosen = parameters.get("row");
    const version = ag.useCalm(`${counters.version}.${counters.reviews}`, 700);
    const rows = useRows(source, path, query, version);
    const { held } = rows;
    const wide = ag.useWide("(min-width: 1100px)");
    const list = useRef(null);
    const search = useRef(null);
    const [filtersOpen, setFiltersOpen] = useState(false);
    const [behind, setBehind] = useState(false);
    const seenVersion = useRef(version);
    const awaited = useRef(null);
    const chosenJustReviewed = useRef(false);

    useEffect(() => {
      // New rows at the top would push away what is being read: further down they wait for a press.
      const first = seenVersion.current === version || held.head === null;
      seenVersion.current = version;
      if (!first && list.current?.scrolled() && !chosenJustReviewed.current) setBehind(true);
      else {
        setBehind(false);
        rows.refresh(chosen);
      }
      chosenJustReviewed.current = false;
    }, [version, held]);

    const change = (edit) => {
      const next = new URLSearchParams(parameters);
      edit(next);
      ag.go(run, "records", next, { replace: true });
    };
    const choose = (key) => {
      const next = new URLSearchParams(parameters);
      if (key) next.set("row", key);
      else next.delete("row");
      ag.go(run, "records", next, { replace: Boolean(chosen) });
    };
    const total = held.head?.total ?? null;
    const shown = Math.min(total ?? 0, MOST_ROWS);
    const rowAt = (place) => held.chunks.get(Math.floor(place / CHUNK))?.[place % CHUNK];
    const at = useMemo(() => {
      for (const [number, chunk] of held.chunks) {
        const found = chunk.findIndex((row) => row.key === chosen);
        if (found >= 0) return number * CHUNK + found;
      }
      return held.head?.position ?? null;
    }, [chosen, held.head]);

    const step = (by) => {
      const next = at === null ? 0 : Math.min(Math.max(at + by, 0), shown - 1);
      const row = rowAt(next);
      list.current?.show(next);
      awaited.current = row ? null : next;
      if (row) choose(row.key);
      else rows.load(Math.floor(next / CHUNK));
    };
    useEffect(() => {
      const row = awaited.current === null ? null : rowAt(awaited.current);
      if (!row) return;
      awaited.current = null;
      choose(row.key);
    });

    const review = async (action, key) => {
      chosenJustReviewed.current = true;
      try {
        const answer = await source.post(`${path}/review`, { action, key });
        told.counters(answer.counters);
        if (action !== "seen") told.say(action === "reject" ? "Rejected 1 row" : "Restored 1 row", told.undo);
      } catch (error) {
        told.say(error.what, null, error.help);
      }
    };
    const reviewAll = async (action) => {
      chosenJustReviewed.current = true;
      try {
        const asked = {};
        for (const [name, value] of new URLSearchParams(query)) (asked[name] ||= []).push(value);
        const answer = await source.post(`${path}/review`, { action, query: asked, expected: total });
        told.counters(answer.counters);
        const words = { reject: "Rejected", restore: "Restored", seen: "Marked as seen:" };
        told.say(`${words[action]} ${ag.rows(answer.count)}`, action === "seen" ? null : told.undo);
      } catch (error) {
        told.say(error.what, null, error.help);
      }
    };

    const current = at === null ? null : rowAt(at);
    ag.useKeys({
      j: () => step(1),
      k: () => step(-1),
      Enter: (event) => (event.target === document.body || list.current?.owns(event.target)) && !chosen ? step(0) : false,
      Escape: () => (chosen ? (choose(null), list.current?.focus()) : false),
      "/": () => (wide ? search.current?.focus() : (setFiltersOpen(true), setTimeout(() => search.current?.focus()))),
      x: () => (source.canWrite && current && current.status !== "failed" ? review(current.rejected ? "restore" : "reject", current.key) : false),
      s: () => (source.canWrite && current && !current.seen && current.status !== "failed" ? review("seen", current.key) : false),
      o: () => (chosen ? open(ag.href(run, "records", { row: chosen }), "_blank", "noopener") : false),
    });

    const actions = { next: () => step(1), previous: () => step(-1), close: () => choose(null), review };
    const filters = html`<${Filters} ...${{ head: held.head, parameters, change, search, counters }} />`;
    const filtered = [...parameters.keys()].some((name) => name !== "row" && name !== "sort");
    const detail = chosen
      ? html`<${ag.Detail} ...${{ source, run, rowKey: chosen, version, actions, position: at, total: total ?? 0 }} />`
      : null;

    return html`<div class=${`records ${chosen ? "chosen" : ""}`}>
      ${wide ? html`<aside class="filters" aria-label="Filters">${filters}</aside>` : null}
      <div class="list-side">
        <div class="toolbar">
          ${wide ? null : html`<button aria-expanded=${filtersOpen} onClick=${() => setFiltersOpen(!filtersOpen)}>Filters</button>`}
          <span class="total" role="status">${total === null ? "Reading …" : filtered ? `${ag.rows(total)} of ${ag.count(counters.rows)}` : ag.rows(total)}</span>
          <label class="sort"><span class="hidden">Order</span>
            <select value=${parameters.get("sort") || "newest"}
              onChange=${(event) => change((next) => next.set("sort", event.target.value))}>
              ${Object.entries(SORTS).map(([name, words]) => html`<option value=${name} selected=${name === (parameters.get("sort") || "newest")}>${words}</option>`)}
            </select></label>
          ${source.canWrite && total
            ? html`<span class="bulk">
                <button onClick=${() => reviewAll("reject")}>Reject all ${ag.count(total)}</button>
                <button class="quiet" onClick=${() => reviewAll("restore")}>Restore all</button>
                <button class="quiet" onClick=${() => reviewAll("seen")}>All seen</button>
              </span>`
            : null}
        </div>
        ${!wide && filtersOpen ? html`<div class="filters inline">${filters}</div>` : null}
        ${behind ? html`<button class="fresh" onClick=${() => (setBehind(false), list.current?.top(), rows.refresh(chosen))}>Show new rows</button>` : null}
        ${total > MOST_ROWS ? html`<p class="notice">The list shows the first ${ag.count(MOST_ROWS)} rows, the most a browser can scroll. Use a filter to see others.</p>` : null}
        ${held.error ? html`<${ag.Problem} error=${held.error} again=${() => rows.refresh(chosen)} />` : null}
        ${total === 0
          ? html`<${ag.Empty} title=${filtered ? "No row matches these filters" : "No rows yet"}>
              ${filtered
                ? html`<button onClick=${() => change((next) => [...next.keys()].forEach((name) => name !== "sort" && next.delete(name)))}>Show all rows</button>`
                : html`<p class="muted">They appear here as they arrive.</p>`}
            <//>`
          : html`<${List} ref_=${list} key=${held.basis} count=${shown} rowAt=${rowAt} load=${rows.load} chosen=${chosen} at=${at}
              choose=${choose} step=${step} />`}
      </div>
      ${detail && wide ? html`<aside class="pane">${detail}</aside>` : null}
      ${detail && !wide ? html`<${Sheet} close=${actions.close}>${detail}<//>` : null}
    </div>`;
  };

  // The detail over the list, where there is no room beside it.
  const Sheet = ({ children, close }) => {
    const place = useRef(null);
    useEffect(() => {
      const dialog = place.current;
      dialog.showModal();
      return () => dialog.close();
    }, []);
    return html`<dialog class="sheet" ref=${place} aria-label="Row" onCancel=${(event) => (event.preventDefault(), close())}>${children}</dialog>`;
  };

  // ---- the list ------------------------------------------------------------------------------------------------------------

  const List = ({ ref_, count, rowAt, load, chosen, at, choose, step }) => {
    const place = useRef(null);
    const [, draw] = useState(0);
    const virtual = useRef(null);
    const options = {
      count,
      getScrollElement: () => place.current,
      estimateSize: () => ROW_PX,
      overscan: 8,
      scrollToFn: elementScroll,
      observeElementRect,
      observeElementOffset,
      onChange: () => draw((number) => number + 1),
    };
    virtual.current ||= new Virtualizer(options);
    virtual.current.setOptions({ ...virtual.current.options, ...options });
    useLayoutEffect(() => virtual.current._didMount(), []);
    useLayoutEffect(() => virtual.current._willUpdate());
    const items = virtual.current.getVirtualItems();
    useEffect(() => {
      for (const item of items) load(Math.floor(item.index / CHUNK));
    });
    const arrived = useRef(false);
    useEffect(() => {
      // A row named in the address is scrolled to once.
      if (at === null || arrived.current || !count) return;
      arrived.current = true;
      virtual.current.scrollToIndex(at, { align: "center" });
    }, [at, count]);
    ref_.current = {
      show: (index) => virtual.current.scrollToIndex(index, { align: "auto" }),
      scrolled: () => (place.current?.scrollTop ?? 0) > 4,
      top: () => virtual.current.scrollToIndex(0),
      focus: () => place.current?.focus(),
      owns: (element) => place.current?.contains(element),
    };
    const pressed = (event) => {
      const page = Math.floor((place.current.clientHeight || ROW_PX) / ROW_PX);
      const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
      if (!(event.key in moves)) return;
      event.preventDefault();
      step(Math.max(-count, Math.min(count, moves[event.key])));
    };
    return html`<div class="list" ref=${place} role="listbox" aria-label="Rows" tabindex="0" onKeyDown=${pressed}
      aria-activedescendant=${chosen ? `row-${chosen}` : undefined}>
      <div class="all" role="presentation" style=${{ height: `${virtual.current.getTotalSize()}px` }}>
        ${items.map((item) => html`<${Row} key=${item.index} item=${item} count=${count} row=${rowAt(item.index)} chosen=${chosen} choose=${choose} />`)}
      </div>
    </div>`;
  };

  const Row = ({ item, row, chosen, choose, count }) => {
    const style = { transform: `translateY(${item.start}px)` };
    if (!row) return html`<div class="row empty" role="presentation" style=${style}><span class="muted">…</span></div>`;
    const selected = row.key === chosen;
    return html`<div class=${`row ${row.seen ? "" : "unseen"} ${selected ? "selected" : ""}`} style=${style} role="option"
      id=${`row-${row.key}`} aria-selected=${selected} aria-setsize=${count} aria-posinset=${item.index + 1}
      onClick=${() => choose(row.key)}>
      <${ag.Glyph} status=${row.status} />
      <span class="what">
        <span class="preview" dir="auto">${row.text ? ag.visible(row.text) : html`<span class="muted">(empty)</span>`}</span>
        <span class="muted from">${ag.variables(row.variables)}${row.marks.length ? html` <span class="marks">${row.marks.map(ag.plain).join(", ")}</span>` : null}${row.rejected ? html` <span class="marks">rejected by you</span>` : null}</span>
      </span>
      <span class="facts muted"><span title="completion tokens">${row.tokens === null ? "" : `${ag.count(row.tokens)} tok`}</span><${ag.When} unix=${row.created} /></span>
    </div>`;
  };

  // ---- filters ---------------------------------------------------------------------------------------------------------------

  const Filters = ({ head, parameters, change, search, counters }) => {
    const [text, setText] = useState(parameters.get("search") || "");
    const timer = useRef(null);
    useEffect(() => setText(parameters.get("search") || ""), [parameters.get("search")]);
    const typed = (event) => {
      const value = event.target.value;
      setText(value);
      clearTimeout(timer.current);
      timer.current = setTimeout(() => change((next) => (value ? next.set("search", value) : next.delete("search"))), 250);
    };
    const toggle = (name, value) => change((next) => {
      const values = next.getAll(name);
      next.delete(name);
      const kept = values.includes(value) ? values.filter((each) => each !== value) : [...values, value];
      for (const each of kept) next.append(name, each);
    });
    const order = head ? Object.keys(head.facets).sort((left, right) => rank(left) - rank(right)) : [];
    const repeats = head?.facets.repeat?.length > 1;
    return html`
      <label class="search"><span class="hidden">Search in prompts and answers</span>
        <input type="search" placeholder="Search  /" value=${text} onInput=${typed} ref=${search}
          onKeyDown=${(event) => event.key === "Escape" && event.target.blur()} /></label>
      ${repeats
        ? html`<label class="check"><input type="checkbox" checked=${parameters.get("differ") === "1"}
            onChange=${(event) => change((next) => (event.target.checked ? next.set("differ", "1") : next.delete("differ")))} />
            Only rows whose repeats differ</label>`
        : null}
      ${order.map((name) => {
        const chosen = parameters.getAll(name);
        const values = head.facets[name].filter(([value, count]) => count || chosen.includes(value) || name === "status");
        if (name === "repeat") values.sort((left, right) => left[0] - right[0]);
        if (!chosen.length && (values.length < 2 && !["status", "review", "check", "error"].includes(name))) return null;
        if (!values.length) return null;
        return html`<${Facet} key=${name} ...${{ name, values, chosen, toggle, truncated: head.truncated.includes(name) }} />`;
      })}
      ${counters.reading ? html`<p class="muted small" role="status">Still reading the files …</p>` : null}
    `;
  };

  const rank = (name) => {
    const first = ["status", "review"].indexOf(name);
    if (first >= 0) return first;
    return name.startsWith("axis.") ? 10 : { check: 20, error: 21, finish_reason: 22, repeat: 23 }[name] || 30;
  };

  const Facet = ({ name, values, chosen, toggle, truncated }) => {
    const [all, setAll] = useState(false);
    const few = all || values.length <= 9 ? values : values.filter(([value], number) => number < 8 || chosen.includes(value));
    return html`<fieldset class="facet">
      <legend>${nameOf(name)}</legend>
      ${few.map(
        ([value, count]) => html`<label class=${`value ${name === "status" ? value : ""}`}>
          <input type="checkbox" checked=${chosen.includes(value)} onChange=${() => toggle(name, value)} />
          <span class="words" dir="auto" title=${ag.plain(value)}>${value === "" ? "(empty)" : ag.visible(value)}</span>
          <span class="amount">${ag.count(count)}</span>
        </label>`,
      )}
      ${few.length < values.length || all && values.length > 9
        ? html`<button class="link" onClick=${() => setAll(!all)}>${all ? "Fewer" : `${ag.count(values.length - few.length)} more`}</button>`
        : null}
      ${truncated ? html`<p class="muted small">The 100 most frequent values; use the search to find others.</p>` : null}
    </fieldset>`;
  };
}
