// The search field, which finds tokens by their text or position.

class Search {
  /** `found(text)` marks tokens, `go(token)` shows one, `leave()` returns to the map. */
  constructor({ tokens, found, go, leave }) {
    Object.assign(this, { tokens, found, go, at: -1 });
    this.field = make("input", { type: "search", placeholder: "Find token", spellcheck: false });
    this.field.setAttribute("aria-label", "Find a token by its text or position");
    this.count = make("span", { className: "count", role: "status" });
    this.root = make("span", { className: "search" }, this.field, this.count);
    this.field.addEventListener("input", () => this.look());
    this.field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") leave();
      if (["Enter", "Escape"].includes(event.key)) event.preventDefault();
    });
  }

  /** The tokens of the map that is shown now. */
  get hits() {
    return this.field.value ? this.tokens().holding(this.field.value) : [];
  }

  look() {
    this.at = -1;
    this.showCount();
    this.found(this.field.value);
  }

  step(by) {
    const { hits } = this;
    if (!hits.length) return;
    this.at = (this.at + by + hits.length) % hits.length;
    if (this.at < 0) this.at = hits.length - 1;
    this.showCount();
    this.go(hits[this.at]);
  }

  /** How many there are; on a map of other tokens the search begins anew. */
  showCount() {
    const many = this.hits.length;
    if (this.tokens() !== this.among) this.at = -1;
    this.among = this.tokens();
    this.count.textContent = !this.field.value ? "" : !many ? "none"
      : this.at < 0 ? `${many} found` : `${this.at + 1} of ${many}`;
  }
}
