// W as the Transport Explorer node sends it: read by kept token and by source cell, and put into words.
// Frames, rows and columns count from 0. An entry is one non-zero weight of W.

const MOST_NAMED = 3;

export function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

export function percent(share) {
  if (share > 0 && share < 0.005) return "under 1%";
  if (share > 0.995 && share < 0.9999) return "over 99%";
  return `${Math.round(100 * share)}%`;
}

export function plural(count, noun) {
  return count === 1 ? `1 ${noun}` : `${count} ${noun}s`;
}

// Offsets of groups whose sizes are counted by `keys`, and the keys' own order when sorted into them.
export function grouped(keys, groups) {
  const start = new Uint32Array(groups + 1);
  for (const key of keys) start[key + 1] += 1;
  for (let group = 0; group < groups; group += 1) start[group + 1] += start[group];
  const next = start.slice(0, groups);
  const order = new Uint32Array(keys.length);
  keys.forEach((key, index) => {
    order[next[key]] = index;
    next[key] += 1;
  });
  return { start, order };
}

export class Transport {
  /** @param {AOT.Transport} sent */
  constructor(sent) {
    this.frames = sent.frames;
    this.together = sent.together;
    this.times = sent.times;
    this.grid = sent.grid;
    this.sources = sent.sources;
    this.kept = sent.kept;
    this.entries = sent.entries;
    this.levels = sent.levels;
    this.roles = sent.roles;
    this.colours = sent.colours;
    // Maps from an earlier version lack these: outlines are then plain, and weights have the text's colour.
    this.outlines = sent.outlines ?? [];
    this.order = sent.order ?? [];
    this.background = sent.background ?? null;
    this.shade = sent.shade ?? null;
    this.tokenGrid = sent.token_grid;
    this.cells = this.grid[0] * this.grid[1];
    this.place = new Uint16Array(bytes(sent.place));
    this.role = new Uint8Array(bytes(sent.role));
    this.start = new Uint32Array(bytes(sent.start));
    this.source = new (sent.source_bits === 16 ? Uint16Array : Uint32Array)(bytes(sent.source));
    this.level = new Uint16Array(bytes(sent.weight));
    this.largest = new Float32Array(bytes(sent.largest));
    this.own = new Float32Array(bytes(sent.own));
    this.speaks = new Float32Array(bytes(sent.speaks));
    this.scale = new Float32Array(bytes(sent.scale));
    this.shown = new Float32Array(bytes(sent.shown));
    this.mass = sent.mass ? new Uint16Array(bytes(sent.mass)) : null;
    this.largestMass = sent.largest_mass;
    this.placed = this.#byPlace();
    // Both are made when they are first asked for.
    this.inverse = null;
    this.row = null;
  }

  // Tokens at every place of the token grid, those that draw most from elsewhere first; newlines have no place.
  #byPlace() {
    const placed = new Map();
    for (let token = 0; token < this.kept; token += 1) {
      if (this.isNewline(token)) continue;
      const { frame, y, x } = this.placeOf(token);
      const key = this.#key(frame, y, x);
      if (!placed.has(key)) placed.set(key, []);
      placed.get(key).push(token);
    }
    for (const tokens of placed.values()) tokens.sort((one, other) => this.own[one] - this.own[other] || one - other);
    return placed;
  }

  #key(frame, y, x) {
    return (frame * this.tokenGrid[0] + y) * this.tokenGrid[1] + x;
  }

  // A newline's column is the one after its row's last.
  isNewline(token) {
    return this.placeOf(token).x >= this.tokenGrid[1];
  }

  placeOf(token) {
    const [frame, y, x] = this.place.subarray(3 * token, 3 * token + 3);
    return { frame, y, x };
  }

  tokensAt(frame, y, x) {
    return this.placed.get(this.#key(frame, y, x)) ?? [];
  }

  // The tokens of a frame, place by place in reading order.
  placesIn(frame) {
    const [height, width] = this.tokenGrid;
    const keys = Array.from({ length: height * width }, (_, index) => frame * height * width + index);
    return keys.flatMap((key) => (this.placed.has(key) ? [this.placed.get(key)] : []));
  }

  sourceAt(frame, y, x) {
    return frame * this.sources + y * this.grid[1] + x;
  }

  /**
   * Where a source token lies; a newline comes after its frame's cells and has no row and no column.
   * @returns {{ frame: number, y?: number, x?: number }}
   */
  cellOf(source) {
    const within = source % this.sources;
    const frame = Math.floor(source / this.sources);
    if (within >= this.cells) return { frame };
    return { frame, y: Math.floor(within / this.grid[1]), x: within % this.grid[1] };
  }

  weight(entry, token) {
    return (this.level[entry] / this.levels) * this.largest[token];
  }

  // What went into a kept token, the largest weight first.
  intoToken(token) {
    return Array.from({ length: this.start[token + 1] - this.start[token] }, (_, index) => {
      const entry = this.start[token] + index;
      return { source: this.source[entry], weight: this.weight(entry, token) };
    });
  }

  // Where a source token went, the largest weight first.
  fromSource(source) {
    this.inverse ??= grouped(this.source, this.frames * this.sources);
    this.row ??= this.#rows();
    const { start, order } = this.inverse;
    return Array.from(order.subarray(start[source], start[source + 1]), (entry) => {
      return { token: this.row[entry], weight: this.weight(entry, this.row[entry]) };
    }).sort((one, other) => other.weight - one.weight);
  }

  #rows() {
    const row = new Uint32Array(this.source.length);
    for (let token = 0; token < this.kept; token += 1) row.fill(token, this.start[token], this.start[token + 1]);
    return row;
  }

  frameName(frame) {
    return this.together === 1 ? `${frame}` : `${frame * this.together}+`;
  }

  frameTime(frame) {
    return `${this.times[frame].toFixed(2)} s`;
  }

  /** @param {{ frame: number, y?: number, x?: number }} place */
  where({ frame, y, x }, noun = "row") {
    return `frame ${this.frameName(frame)}, ${noun} ${y}, column ${x}`;
  }

  tokenName(token) {
    return `${this.roles[this.role[token]]} token`;
  }

  #span(frames) {
    const [first, last] = [Math.min(...frames), Math.max(...frames)].map((frame) => this.frameName(frame));
    return first === last ? `frame ${first}` : `frames ${first} to ${last}`;
  }

  // Kept tokens and the shares that go into them, in words.
  #named(went) {
    const named = went.slice(0, MOST_NAMED).map(({ token, weight }) => {
      return `${percent(weight)} of the ${this.tokenName(token)} at ${this.where(this.placeOf(token))}`;
    });
    return [...named, ...(went.length > named.length ? [`and ${went.length - named.length} more`] : [])].join("; ");
  }

  // A kept token in words; `seen` is the frame that is looked at, `joined` the tokens that went into it in the LLM.
  describeToken(token, seen, joined = []) {
    const entries = this.intoToken(token);
    const place = this.placeOf(token);
    const here = this.tokensAt(place.frame, place.y, place.x);
    const number = here.length > 1 ? ` (${here.indexOf(token) + 1} of ${here.length} here)` : "";
    const own = this.own[token];
    const span = this.#span(entries.map(({ source }) => this.cellOf(source).frame));
    const parts = [
      `${this.where(place)}: ${this.tokenName(token)}${number} = ${percent(own)} its own place, ` +
        `${percent(Math.max(0, 1 - own))} elsewhere`,
      `${plural(entries.length, "cell")} in ${span} make up ${percent(this.shown[token])}`,
      `stands for ${this.speaks[token].toFixed(1)} source cells`,
    ];
    if (joined.length) {
      const share = joined.reduce((sum, { share }) => sum + share, 0);
      parts.push(`${percent(share)} of it are ${plural(joined.length, "token")} that went into it inside the LLM`);
    }
    if (Math.abs(this.scale[token] - 1) > 1e-3) parts.push(`multiplied by ${this.scale[token].toFixed(2)}`);
    if (seen !== place.frame) {
      const inSeen = entries.filter(({ source }) => this.cellOf(source).frame === seen);
      const share = inSeen.reduce((sum, { weight }) => sum + weight, 0);
      parts.push(`${percent(share)} from ${plural(inSeen.length, "cell")} in this frame, ${this.frameName(seen)}`);
    }
    return `${sentence(parts)}.`;
  }

  // A source cell in words.
  describeSource(source) {
    const went = this.fromSource(source);
    const where = this.where(this.cellOf(source), "cell row");
    const shown = went.reduce((sum, { weight }) => sum + weight, 0);
    const mass = this.mass ? (this.mass[source] / this.levels) * this.largestMass : shown;
    if (!went.length && this.mass && !mass) return `${sentence([where])}: went into no token.`;
    if (!went.length) return `${sentence([where])}: only in weights too small to show.`;
    return (
      `${sentence([where])}: went into ${plural(went.length, "token")}: ${this.#named(went)}. ` +
      `Its weights come to ${mass < 0.0005 ? "under 0.001" : mass.toFixed(3)} of a token.`
    );
  }

  // A token that the LLM was given and this layer does not see, in words: when it went, and into which that are left.
  describeGone(name, { layer, stages }, went) {
    const where = `${sentence([name])}, not seen from layer ${layer} on (${stages.join(", ")})`;
    if (!went.length) return `${where}: in none of the tokens that are left.`;
    return `${where}: went into ${plural(went.length, "token")}: ${this.#named(went)}.`;
  }

  describeShown() {
    const least = this.shown.reduce((least, share) => Math.min(least, share), 1);
    return (
      `${plural(this.kept, "token")} from ${plural(this.frames * this.cells, "cell")}. Shown: at least ` +
      `${percent(least)} of every token's weight, ${this.source.length} of ${this.entries} weights.`
    );
  }
}

export function sentence(parts) {
  const joined = parts.join("; ");
  return joined.charAt(0).toUpperCase() + joined.slice(1);
}
