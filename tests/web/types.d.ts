// The editor's modules and globals, and short names for what the pack's JavaScript uses of them.

declare module "*/scripts/app.js" {
  export const app: AOT.App;
}

declare module "*/scripts/api.js" {
  export const api: AOT.App["api"];
}

declare const LiteGraph: { NODE_WIDGET_HEIGHT: number; createNode(type: string): AOT.Node };

declare namespace AOT {
  type App = import("@comfyorg/comfyui-frontend-types").ComfyApp;
  type Extension = Parameters<App["registerExtension"]>[0];
  type NodeDef = Parameters<NonNullable<Extension["beforeRegisterNodeDef"]>>[1];
  type Graph = App["rootGraph"];
  type Widget = NonNullable<EditorNode["widgets"]>[number] & {
    /** Ours. */
    view?: View;
    /** Of an input that is shown on demand. */
    options?: { advanced?: boolean };
    computeLayoutSize?(node: EditorNode): { minHeight: number; maxHeight?: number; minWidth: number };
  };
  type EditorNode = NonNullable<ReturnType<Graph["getNodeById"]>>;

  /** A node, with what extensions of the editor's class add to it. */
  type Node = EditorNode & {
    comfyClass: string;
    widgets?: Widget[];
    subgraph?: Graph;
    imgs?: HTMLImageElement[];
    hideOutputImages?: boolean;
    isLoading?: boolean;
    onExecuted?(output: Output | null): void;
    addDOMWidget(name: string, type: string, element: HTMLElement, options: DOMWidgetOptions): Widget;
  };

  interface DOMWidgetOptions {
    serialize: boolean;
    getMinHeight(): number;
    getMaxHeight(): number | undefined;
    getValue(): string;
    setValue(value: string): void;
    onDraw(): void;
  }

  /** A file in one of ComfyUI's folders, as nodes name it. */
  interface File {
    filename: string;
    subfolder: string;
    type: string;
  }

  /** W as the Transport Explorer sends it: lists of numbers as base64 of their bytes. */
  interface Transport {
    frames: number;
    together: number;
    times: number[];
    grid: [number, number];
    token_grid: [number, number];
    sources: number;
    kept: number;
    entries: number;
    levels: number;
    roles: string[];
    colours: number[][];
    outlines?: string[];
    order?: number[];
    background?: number[];
    shade?: { colour: number[]; faintest: number; strongest: number; bend: number };
    place: string;
    role: string;
    start: string;
    source: string;
    source_bits: 16 | 32;
    weight: string;
    largest: string;
    own: string;
    speaks: string;
    scale: string;
    shown: string;
    mass?: string;
    largest_mass: number;
  }

  /** What the LLM's layers saw of the tokens it was given: a step for every layer before which they became fewer. */
  interface Layers {
    /** Of every layer. */
    tokens: number[];
    given: number;
    full: number;
    steps: LayerStep[];
  }

  interface LayerStep {
    layer: number;
    stages: string[];
    map: Transport;
    /** Which of the given tokens each is, and what others went into them. */
    of: string;
    row: string;
    from: string;
    share: string;
  }

  /** What a node gives to the page. */
  interface Output {
    text?: string[];
    images?: File[];
    aot_maps?: [File, File];
    aot_transport?: [Transport];
    aot_frames?: File[];
    /** Or why there are none. */
    aot_layers?: [Layers | { note: string }];
    aot_strip?: [File];
  }

  /** Why the server would not run a node. */
  interface Refusal {
    type: string;
    message: string;
    details: string;
  }

  /** What is drawn on one node. */
  interface View {
    element: HTMLElement;
    /** Draws what the node gave, and nothing that is not in it. */
    show(output: Output): void;
    /** In pixels. */
    leastHeight(): number;
    /** In pixels; as high as there is room without it. */
    mostHeight?(): number | undefined;
    /** Called whenever the node or the page is drawn anew. */
    look?(): void;
  }
}
