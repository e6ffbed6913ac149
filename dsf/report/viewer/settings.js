// How maps are coloured, all of them alike: the curve, one scale for several, the diagonal shown or not.

class Settings {
  /** `peers(entry)` are the maps that share a scale with one where a common scale is chosen. */
  constructor({ grid, full, attribution, intervention }, peers) {
    Object.assign(this, { grid, full, attribution, intervention, peers, curve: "root", together: false, hidesDiagonal: false, sought: "" });
  }

  /** The codes of a map, with its diagonal left out where that is chosen. */
  codesOf(picture) {
    return this.hidesDiagonal ? picture.offDiagonal : picture.codes;
  }

  /** The curve of a map. Ranks of weights that hardly differ would show contrast that is not there. */
  curveOf({ map }) {
    return this.curve === "percentile" && map.uniform ? "root" : this.curve;
  }

  /** The weight from which on a colour is full: for the square root a robust one, else the largest. */
  endOf(entry) {
    const maps = this.together && !entry.map.difference ? this.peers(entry) : [entry.map];
    return Math.max(...maps.map((map) => this.fullOf(map, this.curveOf({ map }))));
  }

  /** The same of one map alone. Of a nearly uniform one no colour is full, as in map_view.py. */
  fullOf({ bright, uniform, ...map }, curve) {
    if (curve === "root") return bright;
    const largest = map[this.hidesDiagonal ? "largest_apart" : "scale"];
    const even = uniform ? uniform[0] / largest : 0;
    return even > 0.5 ? largest / shareAt(0.5 / even, curve) : largest;
  }

  shadesOf(entry, codes) {
    return new Shades(this.curveOf(entry), entry.map.scale, this.endOf(entry), codes);
  }
}
