// Where the page has its data from: the server that gave it, or the files of an export beside it.
"use strict";

{
  const problem = async (response) => {
    try {
      return (await response.json()).error;
    } catch {
      return { what: `The server answered ${response.status}` };
    }
  };

  const asked = async (path, options) => {
    let response;
    try {
      response = await fetch(`/api/${path}`, options);
    } catch {
      throw { what: "The page has lost the connection to its server", cause: "asyncgen view was stopped, or the connection was closed.", lost: true };
    }
    if (!response.ok) throw await problem(response);
    return response;
  };

  const query = (parameters) => {
    const text = new URLSearchParams(parameters || {}).toString();
    return text ? `?${text}` : "";
  };

  // Counters as they change: one event stream while the page is looked at, polling where there is none.
  class Stream {
    constructor(run, told, lost) {
      Object.assign(this, { run, told, lost, tag: null });
      this.look = () => (document.hidden ? this.close() : this.open());
      document.addEventListener("visibilitychange", this.look);
      this.look();
    }

    open() {
      this.close();
      this.events = new EventSource(`/api/runs/${encodeURIComponent(this.run)}/stream`);
      this.events.onmessage = (event) => {
        this.failures = 0;
        this.lost(false);
        this.told(JSON.parse(event.data));
      };
      this.events.onerror = () => {
        if (this.events?.readyState === EventSource.CLOSED || ++this.failures > 2) {
          this.close();
          this.poll();
        }
      };
      this.failures = 0;
    }

    async poll() {
      try {
        const headers = this.tag ? { "If-None-Match": this.tag } : {};
        const response = await fetch(`/api/runs/${encodeURIComponent(this.run)}/counters`, { headers });
        this.lost(response.status === 401);
        if (response.status === 200) {
          this.tag = response.headers.get("ETag");
          this.told(await response.json());
        }
      } catch {
        this.lost(true);
      }
      if (!this.ended) this.timer = setTimeout(() => this.poll(), 2000);
    }

    close() {
      clearTimeout(this.timer);
      this.events?.close();
      this.events = null;
    }

    end() {
      this.ended = true;
      document.removeEventListener("visibilitychange", this.look);
      this.close();
    }
  }

  class LiveSource {
    canWrite = true;

    async session() {
      const session = await (await asked("session")).json();
      this.token = session.token;
      return session;
    }

    async get(path, parameters) {
      return (await asked(path + query(parameters))).json();
    }

    async send(path, body) {
      return asked(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Asyncgen": this.token },
        body: JSON.stringify(body),
      });
    }

    async post(path, body) {
      return (await this.send(path, body)).json();
    }

    // JSON lines of an answer, as they come.
    async *lines(path, body) {
      const reader = (await this.send(path, body)).body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) yield JSON.parse(line);
      }
    }

    watch(run, told, lost) {
      const stream = new Stream(run, told, lost);
      return () => stream.end();
    }
  }

  // ---- an export: the same answers, from scripts that lie beside the page -------------------------------------------------

  class ExportSource {
    canWrite = false;

    constructor(data) {
      this.data = data;
      this.chunks = new Map();
      this.arrived = {};
      window.asyncgenRows = (number, rows) => this.arrived[number](rows);
    }

    async session() {
      return { first: this.data.name, version: this.data.version };
    }

    async get(path, parameters) {
      const [, , view = "runs", name, more] = path.split("/");
      const asked = new URLSearchParams(parameters || {});
      if (view === "records" && name) {
        if (more) return { rows: [], absent: true };
        const place = this.data.columns.keys.indexOf(name);
        if (place < 0) throw { what: "The run has no such row" };
        return this.row(place);
      }
      if (view === "records") return this.records(asked);
      if (view === "heat") return this.data.heat[`${asked.get("x") || ""}|${asked.get("y") || ""}`];
      if (view === "evaluations" && name) return this.data.evaluations[decodeURIComponent(name)];
      if (view === "evaluations") return { names: Object.keys(this.data.evaluations) };
      return this.data[view];
    }

    watch(run, told) {
      told(this.data.counters);
      return () => {};
    }

    async row(place) {
      const number = Math.floor(place / this.data.chunk);
      if (!this.chunks.has(number)) this.chunks.set(number, this.load(number));
      return (await this.chunks.get(number))[place % this.data.chunk];
    }

    load(number) {
      return new Promise((done, failed) => {
        this.arrived[number] = done;
        const script = document.createElement("script");
        script.src = `data/rows-${number}.js`;
        script.onerror = () => failed({ what: `data/rows-${number}.js is missing`, cause: "It belongs to this export." });
        document.head.append(script);
      });
    }

    async records(asked) {
      const places = await this.places(asked);
      const offset = Number(asked.get("offset") || 0);
      const window_ = places.sorted.slice(offset, offset + Number(asked.get("count") || 100));
      const row = asked.get("row");
      const at = row ? places.sorted.indexOf(this.data.columns.keys.indexOf(row)) : -1;
      return {
        version: 0,
        total: places.sorted.length,
        offset,
        rows: await Promise.all(window_.map((place) => this.row(place))),
        facets: places.facets,
        truncated: [],
        position: at < 0 ? null : at,
      };
    }

    async places(asked) {
      const key = [...asked].filter(([name]) => !["offset", "count", "row"].includes(name)).join("&");
      if (this.found?.key !== key) this.found = { key, ...(await this.search(asked)) };
      return this.found;
    }

    async search(asked) {
      const { columns } = this.data;
      const facets = columns.facets;
      const chosen = new Map();
      for (const name of new Set(asked.keys())) {
        if (facets[name]) chosen.set(name, new Set(asked.getAll(name).map((value) => facets[name].values.indexOf(value))));
      }
      const text = (asked.get("search") || "").trim().toLowerCase();
      let shown = columns.keys.map((_, place) => place);
      if (asked.get("differ") === "1") shown = shown.filter((place) => columns.differ[place]);
      if (text) {
        const rows = await Promise.all(shown.map((place) => this.row(place)));
        shown = shown.filter((_, number) => JSON.stringify(rows[number].line).toLowerCase().includes(text));
      }
      const has = (name, place) => {
        const codes = facets[name].codes[place];
        const wanted = chosen.get(name);
        return Array.isArray(codes) ? codes.some((code) => wanted.has(code)) : wanted.has(codes);
      };
      const counts = {};
      for (const name of Object.keys(facets)) {
        const others = [...chosen.keys()].filter((other) => other !== name);
        const counted = new Array(facets[name].values.length).fill(0);
        for (const place of shown) {
          if (!others.every((other) => has(other, place))) continue;
          for (const code of [facets[name].codes[place]].flat()) if (code >= 0) counted[code] += 1;
        }
        counts[name] = facets[name].values.map((value, code) => [value, counted[code]]);
      }
      const sorted = shown.filter((place) => [...chosen.keys()].every((name) => has(name, place)));
      const by = (column, sign) => sorted.sort((left, right) => sign * (column[left] - column[right]));
      const orders = {
        newest: () => by(columns.created, 1).reverse(),
        oldest: () => by(columns.created, 1),
        grid: () => by(columns.index, 1),
        slowest: () => by(columns.latency, -1),
        longest: () => by(columns.length, -1),
        shortest: () => by(columns.length, 1),
      };
      (orders[asked.get("sort")] || orders.newest)();
      return { sorted, facets: counts };
    }
  }

  ag.openSource = () => (window.asyncgenExport ? new ExportSource(window.asyncgenExport) : new LiveSource());
}
