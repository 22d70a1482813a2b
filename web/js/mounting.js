// Keeps a widget's element on its node where the editor draws nodes as page elements and leaves such widgets out.

export function mount(node, element) {
  const body = document.querySelector(`[data-node-id="${node.id}"] [data-testid="node-body-${node.id}"]`);
  if (body && !element.closest("[data-node-id]")?.isConnected) {
    element.classList.add("aot-loose");
    body.append(element);
  } else if (!body && element.parentElement?.classList.contains("dom-widget")) {
    element.classList.remove("aot-loose");
  }
}

// Calls `look` once a frame at most, whenever the page has changed.
export function watchPage(look) {
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      look();
    });
  }).observe(document.body, { childList: true, subtree: true });
}
