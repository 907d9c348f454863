// A network of three linear layers that reads digits, computed here; with 8-bit weights the sums of
// the first layer are whole numbers, so that they can be changed by what comes and goes.

const LAYERS = 3;

// Of some images (bytes, `size` each) which are not 0 at a pixel: [which image, its value] in turn.
function lit(images, size) {
  const places = Array.from({ length: size }, () => []);
  images.forEach((value, i) => value && places[i % size].push(Math.floor(i / size), value));
  return places;
}

// The network with its weights as integers; `levels`: of each layer, below which |q| one is gone.
function reader({ widths, scales, biases, mean, std }, bytes) {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const layers = Array.from({ length: LAYERS }, (_, k) => {
    const [columns, rows] = [widths[k], widths[k + 1]];
    const weights = signed.subarray(at, (at += rows * columns));
    return { rows, columns, weights, scale: scales[k], bias: biases[k] };
  });
  const [first] = layers;
  const [pixel, shift] = [first.scale / (255 * std), (first.scale * mean) / std];
  // The places of the first layer's weights in the order of their sizes, and where each size begins.
  const starts = new Uint32Array(130);
  for (const q of first.weights) starts[Math.abs(q) + 1]++;
  for (let size = 1; size < 130; size++) starts[size] += starts[size - 1];
  const order = new Uint32Array(first.weights.length);
  const next = starts.slice();
  first.weights.forEach((q, i) => (order[next[Math.abs(q)]++] = i));

  // Images that are looked at: their sums in the first layer, and what follows.
  function watch(images) {
    const [places, many] = [lit(images, first.columns), images.length / first.columns];
    const sums = new Int32Array(many * first.rows); // of q × pixel
    const totals = new Int32Array(first.rows); // of q
    let level = 128; // none is there yet
    const dead = layers.map(({ rows }) => new Uint8Array(rows));

    function change(q, i, sign) {
      const [row, column] = [Math.floor(i / first.columns), i % first.columns];
      totals[row] += sign * q;
      const own = places[column];
      for (let k = 0; k < own.length; k += 2)
        sums[own[k] * first.rows + row] += sign * q * own[k + 1];
    }

    function move(to) {
      const [from, end, sign] = to < level ? [to, level, 1] : [level, to, -1];
      for (let k = starts[from]; k < starts[end]; k++) {
        const q = first.weights[order[k]];
        if (q) change(q, order[k], sign);
      }
      level = to;
    }

    // The numbers of a layer, from those of the layer before; only weights of the level and above.
    function above({ rows, columns, weights, scale, bias }, x, least) {
      return Float64Array.from({ length: rows }, (_, row) => {
        let sum = 0;
        for (let i = 0, k = row * columns; i < columns; i++, k++) {
          const q = weights[k];
          if (x[i] && (q >= least || -q >= least)) sum += q * x[i];
        }
        return scale * sum + bias[row];
      });
    }

    const rectified = (x, gone) => x.map((v, i) => (gone[i] || v < 0 ? 0 : v));

    // Of each image the numbers of the hidden layers and of the outputs. A unit that is gone is 0, an
    // output that is gone is never the answer.
    function answers(levels) {
      if (levels[0] !== level) move(levels[0]);
      return Array.from({ length: many }, (_, d) => {
        const a = Float64Array.from({ length: first.rows }, (_, row) => {
          return pixel * sums[d * first.rows + row] - shift * totals[row] + first.bias[row];
        });
        const one = rectified(a, dead[0]);
        const two = rectified(above(layers[1], one, levels[1]), dead[1]);
        const out = above(layers[2], two, levels[2]);
        dead[2].forEach((gone, c) => gone && (out[c] = -Infinity));
        return { layers: [one, two, out], answer: out.indexOf(Math.max(...out)) };
      });
    }

    return { answers, dead };
  }

  return { layers, watch };
}

// How sure a network is of each class, from its outputs.
function sure(out) {
  const most = Math.max(...out);
  const powers = [...out].map((v) => Math.exp(v - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

// What was drawn on a canvas as MNIST's digits are: 20 pixels at most, its weight in the middle of
// 28. Gives bytes; all 0 if nothing was drawn.
function asDigit(canvas, side) {
  const { width, height } = canvas;
  const ink = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (ink[4 * (y * width + x) + 3] < 32) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
  }
  const bytes = new Uint8Array(side * side);
  if (right < 0) return bytes;
  const factor = 20 / Math.max(right - left + 1, bottom - top + 1);
  const small = document.createElement("canvas");
  [small.width, small.height] = [side, side];
  const context = small.getContext("2d", { willReadFrequently: true });
  const put = (x, y) => {
    context.clearRect(0, 0, side, side);
    const [wide, high] = [right - left + 1, bottom - top + 1];
    context.drawImage(canvas, left, top, wide, high, x, y, wide * factor, high * factor);
    return context.getImageData(0, 0, side, side).data;
  };
  context.imageSmoothingQuality = "high";
  const [x, y] = [4, 4];
  let [sum, across, down] = [0, 0, 0];
  put(x, y).forEach((v, i) => {
    if (i % 4 !== 3) return;
    const place = (i - 3) / 4;
    sum += v;
    across += v * (place % side);
    down += v * Math.floor(place / side);
  });
  const middle = (side - 1) / 2;
  const [dx, dy] = [across / sum - middle, down / sum - middle].map(Math.round);
  put(x - dx, y - dy).forEach((v, i) => i % 4 === 3 && (bytes[(i - 3) / 4] = v));
  return bytes;
}
