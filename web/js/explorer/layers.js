// The LLM's layers, where stages act between them: what each still sees of the tokens that the LLM was given.
// A step is a run of layers that see the same tokens; step 0 sees all of them.

import { bytes, grouped, percent, plural, Transport } from "./transport.js";

class Step {
  /** @param {AOT.LayerStep} sent @param {number} given */
  constructor(sent, given) {
    this.layer = sent.layer;
    this.stages = sent.stages;
    this.transport = new Transport(sent.map);
    this.of = new Uint32Array(bytes(sent.of));
    this.row = new Uint32Array(bytes(sent.row));
    this.from = new Uint32Array(bytes(sent.from));
    this.share = new Float32Array(bytes(sent.share));
    this.left = grouped(this.of, given);
    this.byRow = grouped(this.row, this.of.length);
    this.byFrom = grouped(this.from, given);
  }

  // Which of this step's tokens a given one is; undefined where it is none.
  tokenOf(given) {
    const { start, order } = this.left;
    return start[given] < start[given + 1] ? order[start[given]] : undefined;
  }

  // The other given tokens that went into one of this step's.
  joinedTo(token) {
    const { start, order } = this.byRow;
    return Array.from(order.subarray(start[token], start[token + 1]), (entry) => {
      return { given: this.from[entry], share: this.share[entry] };
    });
  }

  // This step's tokens that a given one went into, the largest share first.
  wentTo(given) {
    const { start, order } = this.byFrom;
    return Array.from(order.subarray(start[given], start[given + 1]), (entry) => {
      return { token: this.row[entry], weight: this.share[entry] };
    }).sort((one, other) => other.weight - one.weight);
  }
}

export class Layers {
  /** @param {AOT.Layers} sent @param {Transport} transport of the tokens that the LLM was given */
  constructor(sent, transport) {
    this.tokens = sent.tokens;
    this.given = sent.given;
    this.full = sent.full;
    this.transport = transport;
    this.steps = sent.steps.map((step) => new Step(step, transport.kept));
  }

  get count() {
    return this.tokens.length;
  }

  get mean() {
    return this.tokens.reduce((sum, count) => sum + count, 0) / this.count;
  }

  // What a layer sees; null for all that the LLM was given.
  stepAt(layer) {
    return this.steps.findLast((step) => step.layer <= layer) ?? null;
  }

  // The step with which a given token went.
  goneWith(given) {
    return this.steps.find((step) => step.tokenOf(given) === undefined);
  }

  describe(layer) {
    const { count, given, full, mean } = this;
    const step = this.stepAt(layer);
    const since = step ? `, since ${step.stages.join(", ")} before layer ${step.layer}` : "";
    return (
      `Layer ${layer} of 0 to ${count - 1} sees ${this.tokens[layer]} of ${plural(given, "token")}${since}. ` +
      `Mean over layers: ${mean.toFixed(1)}, ${percent(mean / full)} of the video's ${full}.`
    );
  }
}
